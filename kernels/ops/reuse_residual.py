from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from ..library import FLOATS, define, run_op


@define(
    "(Tensor x, Tensor residual, Tensor? slope, Tensor? gain) -> Tensor",
    fake=lambda x, *_: torch.empty_like(x),
    kernel_dtypes={"x": FLOATS, "residual": FLOATS, "slope": FLOATS},
)
def reuse_residual(
    x: Tensor, residual: Tensor, slope: Tensor | None = None, gain: Tensor | None = None
) -> Tensor:
    """What the blocks would have answered: `x + residual`, or `x + residual + gain * slope`.

    The sum is taken in fp32 and rounded once. `gain` carries the step in sigma and the damping of
    the forecast.

    Args:
        x: [B, L, C] float.
        residual: [B, L, C] float.
        slope: [B, L, C] float, or None. Given together with gain.
        gain: [L] float32, or None.

    Returns:
        [B, L, C] in the dtype of x.
    """
    op = "reuse_residual"
    checks.shape(op, "x", x, "[B, L, C]", -1, -1, -1)
    checks.together(op, slope=slope, gain=gain)
    checks.device(op, x, residual=residual, slope=slope, gain=gain)
    for name, tensor in (("x", x), ("residual", residual), ("slope", slope)):
        if tensor is not None:
            checks.shape(op, name, tensor, "[B, L, C]", *x.shape)
            checks.floating(op, name, tensor)
            checks.contiguous(op, name, tensor)
    result: Tensor = run_op(op, x, residual, slope, checks.per_token(op, "gain", gain, x))
    return result
