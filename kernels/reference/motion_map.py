from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-8
# frames are taken together up to this many numbers, which keeps the temporaries in the cache
BLOCK_NUMBERS = 1 << 18


def motion_map(features: Tensor, previous: Tensor | None) -> Tensor:
    batch, frames, tokens, channels = features.shape
    result = features.new_empty((batch, frames, tokens), dtype=torch.float32)
    if previous is not None:
        result[:, 0] = _distance(features[:, 0], previous)
    elif frames == 1:
        return result.zero_()
    step = max(1, BLOCK_NUMBERS // max(1, batch * tokens * channels))
    for first in range(1, frames, step):
        last = min(first + step, frames)
        result[:, first:last] = _distance(
            features[:, first:last], features[:, first - 1 : last - 1]
        )
    if previous is None:
        result[:, 0] = result[:, 1]
    return result


def _distance(now: Tensor, before: Tensor) -> Tensor:
    before = before.to(torch.float32)
    moved = (now.to(torch.float32) - before).abs_().sum(-1)
    return moved.div_(before.abs().sum(-1).add_(before.shape[-1] * EPSILON))
