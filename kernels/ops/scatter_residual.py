from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from ..library import FLOATS, define, run_op


@define(
    "(Tensor x, Tensor new, Tensor inverse, Tensor(a!) residual, Tensor(b!)? slope, Tensor? "
    "gain, Tensor? inverse_interval) -> Tensor",
    fake=lambda x, *_: torch.empty_like(x),
    mutates=("residual", "slope"),
    kernel_dtypes={"x": FLOATS, "new": FLOATS, "residual": FLOATS, "slope": FLOATS},
)
def scatter_residual(
    x: Tensor,
    new: Tensor,
    inverse: Tensor,
    residual: Tensor,
    slope: Tensor | None = None,
    gain: Tensor | None = None,
    inverse_interval: Tensor | None = None,
) -> Tensor:
    """Merge computed rows with reused ones and store the new residuals, in one dense pass.

    Where `j = inverse[b, l] >= 0`: `y = new[b, j]`, `r = y - x`, then `slope = (r - residual) *
    inverse_interval` if given and not 0, and `residual = r`. Elsewhere `y` is `reuse_residual`,
    and nothing is stored. In fp32 inside.

    Args:
        x: [B, L, C] float, the input of the blocks.
        new: [B, n, C] float, the output of the blocks for the active rows.
        inverse: [R, L] int32, R = 1 or B: a token's place in new, or -1.
        residual: [B, L, C] float, in place.
        slope: [B, L, C] float, in place, or None. Given together with gain and inverse_interval.
        gain: [L] float32, or None.
        inverse_interval: [L] float32, or None: 1 / (sigma now - sigma at the last update); 0
            where sigma did not move, which leaves the slope as it is.

    Returns:
        y [B, L, C] in the dtype of x.
    """
    op = "scatter_residual"
    checks.shape(op, "x", x, "[B, L, C]", -1, -1, -1)
    batch, length, channels = x.shape
    checks.shape(op, "new", new, "[B, n, C]", batch, -1, channels)
    checks.rows(op, "inverse", inverse, batch, length, "[R, L]")
    checks.together(op, slope=slope, gain=gain, inverse_interval=inverse_interval)
    checks.device(op, x, new=new, inverse=inverse, residual=residual, slope=slope)
    checks.device(op, x, gain=gain, inverse_interval=inverse_interval)
    for name, tensor in (("residual", residual), ("slope", slope)):
        if tensor is not None:
            checks.shape(op, name, tensor, "[B, L, C]", batch, length, channels)
            checks.floating(op, name, tensor)
            checks.contiguous(op, name, tensor, written=True)
    for name, tensor in (("x", x), ("new", new)):
        checks.floating(op, name, tensor)
        checks.contiguous(op, name, tensor)
    result: Tensor = run_op(
        op,
        x,
        new,
        inverse.contiguous(),
        residual,
        slope,
        checks.per_token(op, "gain", gain, x),
        checks.per_token(op, "inverse_interval", inverse_interval, x),
    )
    return result
