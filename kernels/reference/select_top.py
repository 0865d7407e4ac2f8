from __future__ import annotations

import torch
from torch import Tensor


def select_top(score: Tensor, count: Tensor) -> Tensor:
    # sorts of other devices order zeros and NaN by their sign: leave them but one of each
    score = (score + 0.0).masked_fill_(score.isnan(), float("nan"))
    order = score.sort(descending=True, stable=True).indices
    chosen = torch.arange(score.shape[0], device=score.device) < count
    return torch.empty_like(chosen, dtype=torch.uint8).scatter_(0, order, chosen.to(torch.uint8))
