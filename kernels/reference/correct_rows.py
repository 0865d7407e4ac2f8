from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from .pieces import pieces


def correct_rows(
    pred: Tensor, new: Tensor, rows: Tensor, targets: Tensor, sources: Tensor, weight: Tensor
) -> Tensor:
    batch, _, channels = pred.shape
    count, near = sources.shape
    wide = torch.promote_types(pred.dtype, torch.float32)
    y = pred.index_select(1, targets)
    if count == 0 or near == 0:
        return y
    # those that are skipped name a row of zeros behind the computed ones, whatever their weight
    skipped = sources < 0
    places = sources.masked_fill(skipped, new.shape[1])
    weights, tokens = weight.to(wide).masked_fill(skipped, 0.0), rows.clamp(min=0)
    for b in range(batch):
        for part in pieces(channels, 2 * new.shape[1] + count, pred):
            error = new.new_zeros((new.shape[1] + 1, part.stop - part.start), dtype=wide)
            error[:-1] = new[b, :, part]
            error[:-1] -= pred[b, :, part].index_select(0, tokens)
            told = embedding_bag(places, error, mode="sum", per_sample_weights=weights[b])
            y[b, :, part] = told.add_(y[b, :, part])
    return y
