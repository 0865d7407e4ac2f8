from __future__ import annotations

import torch
from torch import Tensor

from .pieces import pieces

EPSILON = 1e-8


def motion_map(features: Tensor, previous: Tensor | None) -> Tensor:
    batch, frames, tokens, channels = features.shape
    result = features.new_empty((batch, frames, tokens), dtype=torch.float32)
    if previous is not None:
        first = features[:, 0].to(torch.float32)
        result[:, 0] = _distance(first, previous.to(torch.float32))
    elif frames == 1:
        return result.zero_()
    # an fp32 copy and a difference of every frame
    for part in pieces(frames - 1, 2 * batch * tokens * channels, features):
        both = features[:, part.start : part.stop + 1].to(torch.float32)
        result[:, part.start + 1 : part.stop + 1] = _distance(both[:, 1:], both[:, :-1])
    if previous is None:
        result[:, 0] = result[:, 1]
    return result


def _distance(now: Tensor, before: Tensor) -> Tensor:
    moved = (now - before).abs_().sum(-1)
    return moved.div_(before.abs().sum(-1).add_(before.shape[-1] * EPSILON))
