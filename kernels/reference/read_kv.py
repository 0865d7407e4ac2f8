from __future__ import annotations

import torch
from torch import Tensor

from .pieces import pieces

# fp32 numbers in temporaries, for each one of the store
TEMPORARIES = 3


def read_kv(
    k_store: Tensor,
    v_store: Tensor,
    k_scale: Tensor,
    v_scale: Tensor,
    dtype: torch.dtype,
    length: int,
) -> tuple[Tensor, Tensor]:
    return (
        _decode(k_store[:, :length], k_scale[:, :length], dtype),
        _decode(v_store[:, :length], v_scale[:, :length], dtype),
    )


def _decode(store: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    batch, length, channels = store.shape
    result = store.new_empty(store.shape, dtype=dtype)
    for part in pieces(length, TEMPORARIES * batch * channels, store):
        heads = _numbers(store[:, part]).unflatten(2, (scale.shape[2], -1))
        result[:, part] = heads.mul_(scale[:, part, :, None]).flatten(2)
    return result


def _numbers(codes: Tensor) -> Tensor:
    if not codes.is_cpu or codes.dtype == torch.int8:
        return codes.to(torch.float32)
    # on a CPU, looking numbers up is five times faster than torch's conversion
    table = torch.arange(256, dtype=torch.uint8, device=codes.device).view(codes.dtype)
    places = codes.view(torch.uint8).to(torch.int32).flatten()
    return table.to(torch.float32).index_select(0, places).view(codes.shape)
