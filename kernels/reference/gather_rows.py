from __future__ import annotations

import torch
from torch import Tensor


def gather_rows(
    x: Tensor, rows: Tensor, rotary: Tensor | None, modulation: Tensor | None, divisor: int
) -> tuple[Tensor, Tensor, Tensor]:
    padding = rows < 0
    # elsewhere than on a CPU, looking would cost a wait, so the zeros are always written
    padded = not padding.is_cpu or bool(padding.any())
    index = rows.clamp(min=0) if padded else rows

    def pick(source: Tensor | None, index: Tensor) -> Tensor:
        if source is None:
            return x.new_empty(0)
        shared = index.shape[0] == 1
        result = source.index_select(1, index[0]) if shared else _select_each(source, index)
        if padded:
            result.masked_fill_(padding[:, :, None], 0.0)
        return result

    tokens, angles = pick(x, index), pick(rotary, index)
    if modulation is not None and divisor > 1:
        index = torch.div(index, divisor, rounding_mode="floor")
    return tokens, angles, pick(modulation, index)


def _select_each(source: Tensor, index: Tensor) -> Tensor:
    batch, length, channels = source.shape
    if batch > 1:
        starts = torch.arange(batch, dtype=index.dtype, device=index.device) * length
        index = index + starts[:, None]
    return source.view(-1, channels).index_select(0, index.view(-1)).view(*index.shape, channels)
