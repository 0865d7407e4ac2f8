from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from ..library import define, run_op


@define(
    "(Tensor score, Tensor count) -> Tensor",
    fake=lambda score, _: score.new_empty(score.shape, dtype=torch.uint8),
)
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
    result: Tensor = run_op(op, score.contiguous(), count)
    return result
