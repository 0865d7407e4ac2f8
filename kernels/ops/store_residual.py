from __future__ import annotations

from torch import Tensor

from .. import checks
from ..library import FLOATS, define, run_op


@define(
    "(Tensor x, Tensor y, Tensor(a!) residual, Tensor(b!)? slope, Tensor? inverse_interval) -> ()",
    fake=lambda *_: None,
    mutates=("residual", "slope"),
    kernel_dtypes={"x": FLOATS, "y": FLOATS, "residual": FLOATS, "slope": FLOATS},
)
def store_residual(
    x: Tensor,
    y: Tensor,
    residual: Tensor,
    slope: Tensor | None = None,
    inverse_interval: Tensor | None = None,
) -> None:
    """Store the residuals of a full evaluation, in one pass: `r = y - x`, in fp32 inside.

    Where `inverse_interval` is not 0, `slope = (r - residual) * inverse_interval`; elsewhere the
    slope stays as it is. Then `residual = r`.

    Args:
        x: [B, L, C] float, the input of the blocks.
        y: [B, L, C] float, their output.
        residual: [B, L, C] float, in place.
        slope: [B, L, C] float, in place, or None. Given together with inverse_interval.
        inverse_interval: [L] float32, or None: see `scatter_residual`.
    """
    op = "store_residual"
    checks.shape(op, "x", x, "[B, L, C]", -1, -1, -1)
    checks.together(op, slope=slope, inverse_interval=inverse_interval)
    checks.device(op, x, y=y, residual=residual, slope=slope, inverse_interval=inverse_interval)
    for name, tensor in (("x", x), ("y", y), ("residual", residual), ("slope", slope)):
        if tensor is not None:
            checks.shape(op, name, tensor, "[B, L, C]", *x.shape)
            checks.floating(op, name, tensor)
            checks.contiguous(op, name, tensor, written=name in ("residual", "slope"))
    run_op(op, x, y, residual, slope, checks.per_token(op, "inverse_interval", inverse_interval, x))
