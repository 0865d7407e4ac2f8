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
from .ops_kv import read_kv, scatter_kv
from .ops_residual import correct_rows, reuse_residual, scatter_residual, store_residual


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


def select_top(score: Tensor, count: Tensor) -> Tensor:
    """Mark the `count` rows of highest score, without a round trip to the host.

    Of equal scores, the lower row number is first; -0.0 equals 0.0, and NaN is highest. Exactly
    `min(max(count, 0), L)` rows are marked; both back ends mark the same.

    Args:
        score: [L] float32.
        count: [1] int32, on the same device.

    Returns:
        mask [L] uint8, as `compact_rows` takes it.
    """
    op = "select_top"
    checks.shape(op, "score", score, "[L]", -1)
    checks.dtype(op, "score", score, torch.float32)
    checks.shape(op, "count", count, "[1]", 1)
    checks.dtype(op, "count", count, torch.int32)
    checks.device(op, score, count=count)
    result: Tensor = call(op, score.contiguous(), count)
    return result


def gather_rows(
    x: Tensor,
    rows: Tensor,
    rotary: Tensor | None = None,
    modulation: Tensor | None = None,
    *,
    divisor: int = 1,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Pick the rows of tokens, of their rotary table and of their frames' modulation, in one pass.

    `x'[b, j] = x[b, rows[b, j]]`, `rotary'` likewise, `modulation'[b, j] = modulation[b, rows[b, j]
    // divisor]`; zeros where `rows` is -1. One list may serve all batch rows, and one batch row all
    lists: an answer has as many batch rows as the more numerous of the two.

    Args:
        x: [B, L, C] float.
        rows: [R, n] int32, R = 1 or B; any R if B = 1.
        rotary: [1 or B, L, P] float, or None.
        modulation: [1 or B, F, M] float, or None.
        divisor: tokens per row of modulation; plays no part in x and rotary.

    Returns:
        x' [max(B, R), n, C], rotary' [1 or max(B, R), n, P], modulation' [1 or max(B, R), n, M],
        each in the dtype of its source; None where there is none.
    """
    op = "gather_rows"
    checks.shape(op, "x", x, "[B, L, C]", -1, -1, -1)
    batch, length, _ = x.shape
    checks.rows(op, "rows", rows, -1 if batch == 1 else batch, -1, "[R, n]")
    checks.device(op, x, rows=rows, rotary=rotary, modulation=modulation)
    if rotary is not None:
        checks.shape(op, "rotary", rotary, "[1 or B, L, P]", -1, length, -1)
    if modulation is not None:
        checks.shape(op, "modulation", modulation, "[1 or B, F, M]", -1, -1, -1)
    for name, tensor in (("x", x), ("rotary", rotary), ("modulation", modulation)):
        if tensor is None:
            continue
        if tensor.shape[0] not in (1, max(batch, rows.shape[0])):
            raise ValueError(
                f"{op}: {name} has {tensor.shape[0]} batch rows, x {batch} and rows {rows.shape[0]}"
                " lists; each must be 1 or the same number. Pass tensors of one call."
            )
        checks.floating(op, name, tensor)
        checks.contiguous(op, name, tensor)
    if divisor < 1:
        raise ValueError(
            f"{op}: divisor is {divisor}; it must be 1 or more (tokens per row of modulation)."
        )
    given: tuple[Tensor, Tensor, Tensor] = call(
        op, x, rows.contiguous(), rotary, modulation, divisor
    )
    return (
        given[0],
        None if rotary is None else given[1],
        None if modulation is None else given[2],
    )


OPS = (
    motion_map,
    accumulate_due,
    compact_rows,
    select_top,
    gather_rows,
    reuse_residual,
    scatter_residual,
    store_residual,
    correct_rows,
    scatter_kv,
    read_kv,
)
