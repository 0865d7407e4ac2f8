from __future__ import annotations

import torch
from torch import Tensor

from ..checks import FP8


def scatter_kv(
    k_new: Tensor, v_new: Tensor, rows: Tensor, k_store: Tensor, v_store: Tensor
) -> None:
    for i, listed in enumerate(rows):
        # one list serves all batch rows, or each has its own
        part = slice(None) if rows.shape[0] == 1 else slice(i, i + 1)
        kept = None
        if bool((listed < 0).any()):
            kept = (listed >= 0).nonzero().view(-1)
            listed = listed.index_select(0, kept)
        index = listed.to(torch.int64)
        for new, store in ((k_new, k_store), (v_new, v_store)):
            values = new[part] if kept is None else new[part].index_select(1, kept)
            _write(store[part], index, values)


def _write(store: Tensor, index: Tensor, values: Tensor) -> None:
    if store.dtype in FP8:
        largest = torch.finfo(store.dtype).max
        values = values.clamp(-largest, largest).to(store.dtype).view(torch.uint8)
        # torch has no index_copy_ for fp8
        store = store.view(torch.uint8)
    store.index_copy_(1, index, values.to(store.dtype))
