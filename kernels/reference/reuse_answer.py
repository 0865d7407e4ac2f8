from __future__ import annotations

import torch
from torch import Tensor

from ._weighted_sum import weighted_sum
from .pieces import pieces


def reuse_answer(x: Tensor, answers: Tensor, weights: list[float], sigma: float) -> Tensor:
    result = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    given, y, kept = x.view(-1), result.view(-1), answers.view(len(weights), x.numel())
    # the sum, and a wide copy of x
    for part in pieces(x.numel(), 2, x):
        total = weighted_sum(zip(weights, kept[:, part], strict=True))
        y[part] = given[part] if total is None else torch.sub(given[part], total, alpha=sigma)
    return result
