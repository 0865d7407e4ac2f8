from __future__ import annotations

import torch
from torch import Tensor

from ..shares import count_above, count_reaching


def accumulate_due(
    accumulator: Tensor,
    stale: Tensor,
    distance: Tensor,
    weight: Tensor | None,
    frames: int,
    threshold: float,
    agreement: float,
    min_update_ratio: float,
    max_stale_steps: int,
) -> tuple[Tensor, Tensor]:
    length = accumulator.shape[0]
    growth = distance.reshape(())
    accumulator.add_(growth if weight is None else growth * weight)
    due = accumulator >= threshold
    if agreement >= 0:
        votes = due.view(frames, -1).sum(0)
        due = (votes >= count_above(agreement, frames)).repeat(frames)
    if min_update_ratio > 0:
        due &= due.sum() >= count_reaching(min_update_ratio, length)
    if max_stale_steps > 0:
        due |= stale >= max_stale_steps
    accumulator.masked_fill_(due, 0.0)
    stale.add_(1).masked_fill_(due, 0)
    return due.to(torch.uint8), due.sum(dtype=torch.int32).view(1)
