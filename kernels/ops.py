"""The public ops: `B` batch rows, `L` tokens in frame-major order, `n` active rows, `C` channels.

A row list is int32 and names tokens; -1 in it is padding. Row numbers are trusted: no op waits for
the device to check them. Results are new, contiguous tensors; only arguments marked "in place"
change.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .library import call


def motion_map(features: Tensor, previous: Tensor | None = None) -> Tensor:
    """Relative L1 distance of each token to the token at its place one frame before.

    `D[b,f,s] = sum_c |y[f] - y[f-1]| / (sum_c |y[f-1]| + C * 1e-8)`, in fp32 (MotionCache's motion
    score; TeaCache's distance per token). Frame 0 looks at `previous`; without it `D[0] = D[1]`,
    and a single frame has no motion: zeros.

    Args:
        features: [B, F, S, C] float, S tokens a frame.
        previous: [B, S, C] of the same dtype: the frame before the first, or None.

    Returns:
        [B, F, S] float32.
    """
    op = "motion_map"
    checks.shape(op, "features", features, "[B, F, S, C]", -1, -1, -1, -1)
    checks.floating(op, "features", features)
    checks.contiguous(op, "features", features)
    if previous is not None:
        b, _, s, c = features.shape
        checks.shape(op, "previous", previous, "[B, S, C]", b, s, c)
        checks.dtype(op, "previous", previous, features.dtype)
        checks.device(op, features, previous=previous)
        previous = previous.contiguous()
    result: Tensor = call(op, features, previous)
    return result


def accumulate_due(
    accumulator: Tensor,
    stale: Tensor,
    distance: Tensor,
    weight: Tensor | None = None,
    *,
    frames: int,
    threshold: float,
    agreement: float,
    min_update_ratio: float,
    max_stale_steps: int,
) -> tuple[Tensor, Tensor]:
    """Let every token's accumulator grow and say which tokens are due (MotionCache's update rule).

    1. `a += distance * weight`; a token crosses when `a >= threshold`.
    2. With `agreement >= 0`, a position crosses in all frames if more than that share of its frames
       crosses (strictly more), else in none.
    3. If some tokens cross, but a share of less than `min_update_ratio`, none does.
    4. A token that was not due for `max_stale_steps` calls is due, whatever 2 and 3 say.
    5. Due tokens: `a = 0, stale = 0`; the others: `stale += 1`.

    Both back ends decide alike, bit for bit: shares are compared as integer counts.

    Args:
        accumulator: [L] float32, in place; `L = frames * S`.
        stale: [L] int32, in place: calls since the token was last due.
        distance: 0-d or [1] float32, on the same device.
        weight: [L] float32, or None for 1.
        agreement: 0 to 1, or negative for no vote.
        min_update_ratio: 0 to 1.
        max_stale_steps: 0 is never.

    Returns:
        due [L] uint8, and their count [1] int32, which stays on the device.
    """
    op = "accumulate_due"
    checks.shape(op, "accumulator", accumulator, "[L]", -1)
    length = accumulator.shape[0]
    checks.shape(op, "stale", stale, "[L]", length)
    checks.dtype(op, "accumulator", accumulator, torch.float32)
    checks.dtype(op, "stale", stale, torch.int32)
    checks.dtype(op, "distance", distance, torch.float32)
    checks.contiguous(op, "accumulator", accumulator, written=True)
    checks.contiguous(op, "stale", stale, written=True)
    checks.device(op, accumulator, stale=stale, distance=distance, weight=weight)
    if distance.numel() != 1:
        raise ValueError(
            f"{op}: distance has shape {list(distance.shape)}; it must hold one number, the "
            "distance of this step. Reduce it first, or fold a distance per token into weight."
        )
    if weight is not None:
        checks.shape(op, "weight", weight, "[L]", length)
        checks.dtype(op, "weight", weight, torch.float32)
        weight = weight.contiguous()
    if frames < 1 or length % frames:
        raise ValueError(
            f"{op}: frames is {frames} for {length} tokens; it must divide them. "
            "Pass the number of latent frames that the tokens cover."
        )
    checks.between(op, "agreement", agreement, -1.0, 1.0)
    checks.between(op, "min_update_ratio", min_update_ratio, 0.0, 1.0)
    checks.between(op, "max_stale_steps", max_stale_steps, 0, 2**31 - 1)
    result: tuple[Tensor, Tensor] = call(
        op,
        accumulator,
        stale,
        distance,
        weight,
        frames,
        threshold,
        agreement,
        min_update_ratio,
        max_stale_steps,
    )
    return result


def compact_rows(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """List the rows that are set in a mask, ascending, without a round trip to the host.

    Args:
        mask: [L] uint8 or bool; not 0 is set.

    Returns:
        rows [L] int32, filled up with -1; inverse [L] int32: a row's place in `rows`, or -1; their
        count [1] int32, which stays on the device.
    """
    op = "compact_rows"
    checks.shape(op, "mask", mask, "[L]", -1)
    checks.dtype(op, "mask", mask, torch.uint8, torch.bool)
    result: tuple[Tensor, Tensor, Tensor] = call(op, mask.contiguous())
    return result


def gather_rows(x: Tensor, rows: Tensor, *, divisor: int = 1) -> Tensor:
    """Pick rows: `out[b, j] = x[b, rows[b, j] // divisor]`, and zeros where `rows` is -1.

    One list may serve all batch rows, and one batch row all lists. `divisor` = tokens per frame
    picks the row of a token's frame, such as its modulation.

    Args:
        x: [B, L, C] float.
        rows: [R, n] int32, R = 1 or B; any R if B = 1.

    Returns:
        [max(B, R), n, C] in the dtype of x.
    """
    op = "gather_rows"
    checks.shape(op, "x", x, "[B, L, C]", -1, -1, -1)
    checks.floating(op, "x", x)
    checks.contiguous(op, "x", x)
    batch = x.shape[0]
    checks.rows(op, "rows", rows, -1 if batch == 1 else batch, -1, "[R, n]")
    checks.device(op, x, rows=rows)
    if divisor < 1:
        raise ValueError(f"{op}: divisor is {divisor}; it must be 1 or more (tokens per row of x).")
    result: Tensor = call(op, x, rows.contiguous(), divisor)
    return result


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


def scatter_kv(
    k_new: Tensor, v_new: Tensor, rows: Tensor, k_store: Tensor, v_store: Tensor
) -> None:
    """Write fresh keys and values into the store: `store[b, rows[b, j]] = new[b, j]`.

    -1 is skipped. Converts to the dtype of the store; fp8 saturates at its largest number. A row
    may occur once in a list.

    Args:
        k_new: [B, n, C] float, C = heads * head width.
        v_new: [B, n, C] float.
        rows: [R, n] int32, R = 1 or B.
        k_store: [B, L, C] float or fp8, in place.
        v_store: [B, L, C] float or fp8, in place.
    """
    op = "scatter_kv"
    checks.shape(op, "k_new", k_new, "[B, n, C]", -1, -1, -1)
    batch, count, channels = k_new.shape
    checks.shape(op, "v_new", v_new, "[B, n, C]", batch, count, channels)
    checks.shape(op, "k_store", k_store, "[B, L, C]", batch, -1, channels)
    checks.shape(op, "v_store", v_store, "[B, L, C]", batch, k_store.shape[1], channels)
    checks.rows(op, "rows", rows, batch, count, "[R, n]")
    checks.device(op, k_new, v_new=v_new, rows=rows, k_store=k_store, v_store=v_store)
    for name, tensor in (("k_new", k_new), ("v_new", v_new)):
        checks.floating(op, name, tensor)
        checks.contiguous(op, name, tensor)
    for name, tensor in (("k_store", k_store), ("v_store", v_store)):
        if tensor.dtype not in checks.FP8:
            checks.floating(op, name, tensor)
        checks.contiguous(op, name, tensor, written=True)
    call(op, k_new, v_new, rows.contiguous(), k_store, v_store)


def _per_token(op: str, name: str, tensor: Tensor | None, x: Tensor) -> Tensor | None:
    if tensor is None:
        return None
    checks.shape(op, name, tensor, "[L]", x.shape[1])
    checks.dtype(op, name, tensor, torch.float32)
    return tensor.contiguous()


OPS = (
    motion_map,
    accumulate_due,
    compact_rows,
    gather_rows,
    reuse_residual,
    scatter_residual,
    scatter_kv,
)
