from __future__ import annotations

import torch

from .utils import repeat_to_batch_size


class CONDConstant:
    """Anything that stays as it is, and batches with its equal."""

    def __init__(self, cond):
        self.cond = cond

    def process_cond(self, batch_size, **kwargs):
        return type(self)(self.cond)

    def can_concat(self, other):
        return self.cond is other.cond

    def concat(self, others):
        return self.cond


class CONDRegular:
    """A tensor of the conditioning that batches with another one of the same shape."""

    def __init__(self, cond):
        self.cond = cond

    def process_cond(self, batch_size, **kwargs):
        return type(self)(repeat_to_batch_size(self.cond, batch_size))

    def can_concat(self, other):
        return self.cond.shape == other.cond.shape

    def concat(self, others):
        return torch.cat([self.cond, *(other.cond for other in others)])
