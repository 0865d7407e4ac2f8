from __future__ import annotations

import torch
from torch import Tensor


def gather_rows(x: Tensor, rows: Tensor, divisor: int) -> Tensor:
    padding = rows < 0
    # elsewhere than on a CPU, looking would cost a wait, so the zeros are always written
    padded = not padding.is_cpu or bool(padding.any())
    index = rows.clamp(min=0) if padded else rows
    if divisor > 1:
        index = torch.div(index, divisor, rounding_mode="floor")
    shared = rows.shape[0] == 1
    result = x.index_select(1, index[0]) if shared else _select_each(x, index)
    if padded:
        result.masked_fill_(padding[:, :, None], 0.0)
    return result


def _select_each(x: Tensor, index: Tensor) -> Tensor:
    batch, length, channels = x.shape
    if batch > 1:
        starts = torch.arange(batch, dtype=index.dtype, device=index.device) * length
        index = index + starts[:, None]
    return x.view(-1, channels).index_select(0, index.view(-1)).view(*index.shape, channels)
