"""The public ops on residuals of the block stack and on forecasts of its output. Conventions:
`ops`."""

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


def correct_rows(
    pred: Tensor, new: Tensor, rows: Tensor, targets: Tensor, sources: Tensor, weight: Tensor
) -> Tensor:
    """Forecast rows, corrected by what the forecast got wrong where tokens were computed.

    `y[b, i] = pred[b, targets[i]] + sum_k weight[b, i, k] * (new[b, s] - pred[b, rows[s]])` with
    `s = sources[i, k]`; entries of -1 are skipped, whatever their weight is. In fp32 inside and
    rounded once (ours: errors of the forecast that computed tokens show, spread to tokens near and
    like them).

    Args:
        pred: [B, L, C] float, what tokens that are not computed are forecast to be.
        new: [B, n, C] float, the computed rows.
        rows: [n] int32, their tokens. No entry of sources may name a place that is padding here.
        targets: [m] int32, the tokens to correct; without padding.
        sources: [m, K] int32: places in new of computed tokens near a target, or -1.
        weight: [B, m, K] float32.

    Returns:
        y [B, m, C] in the dtype of pred.
    """
    op = "correct_rows"
    checks.shape(op, "pred", pred, "[B, L, C]", -1, -1, -1)
    batch, _, channels = pred.shape
    checks.shape(op, "new", new, "[B, n, C]", batch, -1, channels)
    checks.shape(op, "rows", rows, "[n]", new.shape[1])
    checks.shape(op, "targets", targets, "[m]", -1)
    checks.shape(op, "sources", sources, "[m, K]", targets.shape[0], -1)
    checks.shape(op, "weight", weight, "[B, m, K]", batch, *sources.shape)
    checks.device(op, pred, new=new, rows=rows, targets=targets, sources=sources, weight=weight)
    for name, tensor in (("pred", pred), ("new", new)):
        checks.floating(op, name, tensor)
        checks.contiguous(op, name, tensor)
    for name, tensor in (("rows", rows), ("targets", targets), ("sources", sources)):
        checks.dtype(op, name, tensor, torch.int32)
    checks.dtype(op, "weight", weight, torch.float32)
    result: Tensor = call(
        op,
        pred,
        new,
        rows.contiguous(),
        targets.contiguous(),
        sources.contiguous(),
        weight.contiguous(),
    )
    return result


def _per_token(op: str, name: str, tensor: Tensor | None, x: Tensor) -> Tensor | None:
    if tensor is None:
        return None
    checks.shape(op, name, tensor, "[L]", x.shape[1])
    checks.dtype(op, name, tensor, torch.float32)
    return tensor.contiguous()
