"""A sum that reads only what has a weight."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def weighted_sum(terms: Iterable[tuple[float, Tensor]]) -> Tensor | None:
    """`sum weight * tensor`, a new tensor; None where no weight is other than 0."""
    total = None
    for weight, term in terms:
        if weight == 0.0:
            continue
        total = torch.mul(term, weight) if total is None else total.add_(term, alpha=weight)
    return total
