"""Keys and values of the chunks that other chunks still look at."""

from __future__ import annotations

import torch
from torch import Tensor

from ...cache.kv_store import KVStore
from ...cache.kv_tiers import KVTiers
from .network import BlockKeys


class ChunkKeys:
    """One pass's keys and values, from the oldest chunk that is needed to the newest.

    Args:
        blocks: of the network.
        tiers: where they are kept.
        rows: tokens of a chunk.
    """

    def __init__(self, blocks: int, tiers: KVTiers, rows: int) -> None:
        self._store, self._blocks, self._rows = KVStore(blocks, tiers), blocks, rows
        # number of the chunk whose rows come first
        self._first: int | None = None

    def reach(self, chunk: int, first: int, last: int, rows: Tensor | None = None) -> BlockKeys:
        """Keeps what a chunk's evaluation makes, and shows it all from chunk `first` to `last`.

        Args:
            rows: tokens `(n,)` int64 of the chunk that are evaluated; the keys of the others are
                those that were kept. None is all of them.
        """
        if self._first is None:
            self._first = first
        end = self._rows_of(chunk).stop
        seen = slice(self._rows_of(first).start, self._rows_of(last).stop)
        places: Tensor | None = None

        def keys(block: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal places
            if places is None:
                every = torch.arange(self._rows, device=k.device) if rows is None else rows
                places = (every + self._rows_of(chunk).start).to(torch.int32)[None]
            self._store.grow(block, k, end)
            k, v = self._store.update(block, k.contiguous(), v.contiguous(), places, end)
            return k[:, seen], v[:, seen]

        return keys

    def copy(self, chunk: int, source: ChunkKeys) -> None:
        """Take over what another pass has of a chunk."""
        # nothing older was ever asked for here
        self._first = source._first if self._first is None else self._first
        there, here = source._rows_of(chunk), self._rows_of(chunk)
        places: Tensor | None = None
        for block in range(self._blocks):
            k, v = source._store.entries[block].read(there.stop)
            if places is None:
                places = torch.arange(here.start, here.stop, dtype=torch.int32, device=k.device)
                places = places[None]
            self._store.grow(block, k, here.stop)
            # what is read is overwritten by the second next read
            k, v = k[:, there].clone(), v[:, there].clone()
            self._store.update(block, k, v, places, here.stop)

    def forget_before(self, chunk: int) -> None:
        """Drop everything of the chunks before this one."""
        if self._first is not None and chunk > self._first:
            self._store.slide((chunk - self._first) * self._rows, keep=False)
            self._first = chunk

    def make_room(self) -> bool:
        """Move everything one tier down; whether there is more room now."""
        return self._store.make_room()

    def nbytes(self) -> tuple[int, int]:
        """Bytes on the model's device, and in the host's memory besides."""
        return self._store.nbytes()

    def drop(self) -> None:
        """Keep nothing."""
        self._store.drop()
        self._first = None

    def _rows_of(self, chunk: int) -> slice:
        """Where a chunk's rows are in the store."""
        at = (chunk - (self._first or 0)) * self._rows
        return slice(at, at + self._rows)
