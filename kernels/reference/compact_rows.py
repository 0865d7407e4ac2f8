from __future__ import annotations

import torch
from torch import Tensor


def compact_rows(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # nonzero() would be shorter, but waits for the device
    length = mask.shape[0]
    chosen = mask != 0
    ends = chosen.cumsum(0)
    slots = ends - 1
    rows = torch.full((length + 1,), -1, dtype=torch.int32, device=mask.device)
    numbers = torch.arange(length, dtype=torch.int32, device=mask.device)
    rows.scatter_(0, slots.where(chosen, length), numbers)
    # the last entry took all rows that are not chosen
    rows = rows[:length].clone()
    return rows, slots.where(chosen, -1).to(torch.int32), chosen.sum(dtype=torch.int32).view(1)
