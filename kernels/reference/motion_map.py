from __future__ import annotations

import torch
from torch import Tensor

from .pieces import pieces

EPSILON = 1e-8


def motion_map(features: Tensor) -> Tensor:
    batch, frames, tokens, channels = features.shape
    result = features.new_empty((batch, frames, tokens), dtype=torch.float32)
    if frames == 1:
        return result.zero_()
    # an fp32 copy and a difference of every frame
    for part in pieces(frames - 1, 2 * batch * tokens * channels, features):
        both = features[:, part.start : part.stop + 1].to(torch.float32)
        before = both[:, :-1]
        moved = (both[:, 1:] - before).abs_().sum(-1)
        moved.div_(before.abs().sum(-1).add_(channels * EPSILON))
        result[:, part.start + 1 : part.stop + 1] = moved
    result[:, 0] = result[:, 1]
    return result
