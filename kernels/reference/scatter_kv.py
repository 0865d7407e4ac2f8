from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
# below it, the reciprocal of a scale would overflow
TINY = 2.0**-100


def scatter_kv(
    k_new: Tensor,
    v_new: Tensor,
    rows: Tensor,
    k_store: Tensor,
    v_store: Tensor,
    k_scale: Tensor | None,
    v_scale: Tensor | None,
) -> None:
    if k_new.numel() == 0 or k_store.numel() == 0:
        return
    if k_scale is None or v_scale is None:
        pairs = [(k_new, k_store), (v_new, v_store)]
    else:
        pairs = _encode(k_new, k_store, k_scale) + _encode(v_new, v_store, v_scale)
    scatter = scatter_listed if rows.is_cpu else scatter_padded
    scatter(rows, pairs)


def scatter_listed(rows: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Write `new` of every pair into its `store`; drops padding first, for which it must look."""
    for i, listed in enumerate(rows):
        # one list serves all batch rows, or each has its own
        part = slice(None) if rows.shape[0] == 1 else slice(i, i + 1)
        kept = None
        if bool((listed < 0).any()):
            kept = (listed >= 0).nonzero().view(-1)
            listed = listed.index_select(0, kept)
        index = listed.to(torch.int64)
        for new, store in pairs:
            values = new[part] if kept is None else new[part].index_select(1, kept)
            store[part].index_copy_(1, index, values.to(store.dtype))


def scatter_padded(rows: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """The same without a look: padding repeats the list's first row, and a list of nothing but
    padding writes what its row 0 holds."""
    listed = rows >= 0
    some = listed.any(1)[:, None, None]
    batch, count = pairs[0][0].shape[:2]
    place = torch.arange(count, device=rows.device)
    first = listed.to(torch.int32).argmax(1, keepdim=True)
    source = torch.where(listed, place, first)
    target = rows.clamp(min=0).to(torch.int64).gather(1, source)
    each = torch.arange(batch, device=rows.device)[:, None]
    for new, store in pairs:
        width = store.shape[2]
        index = (target + each * store.shape[1]).view(-1)
        values = new.view(-1, width).index_select(0, (source + each * count).view(-1))
        values = torch.where(some, values.view(new.shape).to(store.dtype), store[:, :1])
        store.view(-1, width).index_copy_(0, index, values.view(-1, width))


def _encode(new: Tensor, store: Tensor, scale: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Codes and scales, each with the tensor that they go to."""
    heads = new.unflatten(2, (scale.shape[2], -1)).to(torch.float32)
    amax = heads.abs().amax(-1)
    amax.masked_fill_(amax < TINY, LARGEST[store.dtype])
    # torch multiplies by the reciprocal where one side is a number, which rounds twice
    largest = torch.full_like(amax, LARGEST[store.dtype])
    numbers = heads * (largest / amax)[..., None]
    if store.dtype == torch.int8:
        # what a NaN is as an integer is left open
        numbers = numbers.round_().nan_to_num_(nan=0.0)
    codes = numbers.to(store.dtype).view(torch.uint8).view(new.shape)
    pairs = (codes, store.view(torch.uint8))
    # torch copies rows of words ten times faster than rows of bytes
    if new.shape[2] % 4 == 0 and store.storage_offset() % 4 == 0:
        pairs = (pairs[0].view(torch.int32), pairs[1].view(torch.int32))
    return [pairs, (amax / largest, scale)]
