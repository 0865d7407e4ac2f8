from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..library import define, run_op


def fake(accumulator: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    due = accumulator.new_empty(accumulator.shape, dtype=torch.uint8)
    return due, accumulator.new_empty((1,), dtype=torch.int32)


@define(
    "(Tensor(a!) accumulator, Tensor(b!) stale, Tensor distance, Tensor? weight, int frames, "
    "float threshold, float agreement, float min_update_ratio, int max_stale_steps) -> "
    "(Tensor, Tensor)",
    fake=fake,
    mutates=("accumulator", "stale"),
)
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
    result: tuple[Tensor, Tensor] = run_op(
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
