"""Keys and values of the chunks that other chunks still look at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...cache.kv_store import KVStore
from ...cache.kv_tiers import KVTiers
from .network import BlockKeys
from .options import CHUNK_FRAMES


@dataclass(frozen=True, slots=True)
class Cut:
    """What finished chunks are cut down to before a chunk's keys are kept.

    Attributes:
        finished: chunks of the clip whose keys are not written again.
        keep: chunks in whose room they are kept.
        heads: of the keys.
    """

    finished: int
    keep: int
    heads: int


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

    def reach(
        self, chunk: int, first: int, last: int, rows: Tensor | None = None, cut: Cut | None = None
    ) -> BlockKeys:
        """Keeps what a chunk's evaluation makes, and shows it all from chunk `first` to `last`.

        Args:
            rows: tokens `(n,)` int64 of the chunk that are evaluated; the keys of the others are
                those that were kept. None is all of them.
            cut: takes room for it from finished chunks, by what the queries of its last frame ask
                for, as published. `first` is the clip's first chunk once any was cut.
        """
        if self._first is None:
            self._first = first
        own, last_row = self._rows_of(chunk), self._rows_of(last).stop
        first_row = self._rows_of(first).start
        # of the store's rows, by how far they are from the clip's
        places: dict[int, Tensor] = {}

        def keys(block: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            if cut is not None:
                self._cut(block, q, cut)
            shift = self._store.done(block).shift
            if shift not in places:
                every = torch.arange(self._rows, device=k.device) if rows is None else rows
                places[shift] = (every + (own.start + shift)).to(torch.int32)[None]
            self._store.grow(block, k, own.stop)
            k, v = self._store.update(
                block, k.contiguous(), v.contiguous(), places[shift], own.stop + shift
            )
            seen = slice(max(0, first_row + shift), last_row + shift)
            return k[:, seen], v[:, seen]

        return keys

    def copy(self, chunk: int, source: ChunkKeys) -> None:
        """Take over what another pass has of a chunk."""
        # nothing older was ever asked for here
        self._first = source._first if self._first is None else self._first
        end, places = self._rows_of(chunk).stop, None
        for block in range(self._blocks):
            there, here = (keys._stored(chunk, block) for keys in (source, self))
            k, v = source._store.entries[block].read(there.stop)
            if places is None:
                places = torch.arange(here.start, here.stop, dtype=torch.int32, device=k.device)
                places = places[None]
            self._store.grow(block, k, end)
            # what is read is overwritten by the second next read
            k, v = k[:, there].clone(), v[:, there].clone()
            self._store.update(block, k, v, places, here.stop)

    def left_out(self) -> int:
        """Chunks' worth of keys that finished chunks were cut by."""
        return -self._store.done(0).shift // self._rows

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

    def _cut(self, block: int, q: Tensor, cut: Cut) -> None:
        rows, keep = cut.finished * self._rows, cut.keep * self._rows
        if block in self._store.entries:
            asking = q[:, -(self._rows // CHUNK_FRAMES) :]
            self._store.compress(block, asking, rows, keep, cut.heads)

    def _stored(self, chunk: int, block: int) -> slice:
        """Where the rows of a chunk that was not cut are in a block's store."""
        rows, shift = self._rows_of(chunk), self._store.done(block).shift
        return slice(rows.start + shift, rows.stop + shift)

    def _rows_of(self, chunk: int) -> slice:
        """Where a chunk's rows are in the store while no chunk was cut."""
        at = (chunk - (self._first or 0)) * self._rows
        return slice(at, at + self._rows)
