"""The public ops on residuals of the block stack. Conventions: `ops`."""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .library import call


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
    result: Tensor = call(op, x, residual, slope, _per_token(op, "gain", gain, x))
    return result


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
    result: Tensor = call(
        op,
        x,
        new,
        inverse.contiguous(),
        residual,
        slope,
        _per_token(op, "gain", gain, x),
        _per_token(op, "inverse_interval", inverse_interval, x),
    )
    return result


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
    call(op, x, y, residual, slope, _per_token(op, "inverse_interval", inverse_interval, x))


def _per_token(op: str, name: str, tensor: Tensor | None, x: Tensor) -> Tensor | None:
    if tensor is None:
        return None
    checks.shape(op, name, tensor, "[L]", x.shape[1])
    checks.dtype(op, name, tensor, torch.float32)
    return tensor.contiguous()
