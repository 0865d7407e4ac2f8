"""Keys and values of every block, so that a few active rows can attend to all rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import methodcaller
from typing import TypeVar, cast

import torch
from torch import Tensor

from .kv_blocks.block import BlockKV, KVShape
from .kv_blocks.forecast import carry_on, cleared, for_fewer, learn, no_slopes
from .kv_blocks.kinds import FORECASTING, TIERS
from .kv_compress import Finished, compress_kv
from .kv_tiers import KVTiers
from .row_update import RowUpdates

T = TypeVar("T")


@dataclass(slots=True)
class KVStore:
    """Post-rotary keys and values `(B, L, C)` per block, in the tiers that `tiers` names.

    Where memory runs out, the block and all behind it go to the next tier, and the work is done
    again. Where there is none, everything is dropped and nothing is kept from then on, or, if it
    cannot be done without, `torch.OutOfMemoryError` is raised.

    Attributes:
        slopes: per block, change of keys and values per unit of sigma, where they are forecast.
        finished: per block, rows at the front that no longer match the clip's rows one to one.
    """

    blocks: int
    tiers: KVTiers
    entries: dict[int, BlockKV] = field(default_factory=dict)
    slopes: dict[int, BlockKV] = field(default_factory=dict)
    fresh: set[int] = field(default_factory=set)
    finished: dict[int, Finished] = field(default_factory=dict)

    def begin_dense(self) -> None:
        """A full evaluation starts; blocks it does not reach are not to be read afterwards."""
        # there is nothing to learn a slope from in a block that was passed over
        self.slopes = {i: s for i, s in self.slopes.items() if i in self.fresh}
        self.fresh = set()

    @property
    def complete(self) -> bool:
        """Whether the last full evaluation stored every block."""
        return len(self.fresh) == self.blocks

    def put(self, block: int, k: Tensor, v: Tensor, updates: RowUpdates | None = None) -> None:
        """Keep a block's tensors. On the model's device in its dtype they are kept as they are,
        without a copy, when they own their memory; partial evaluations then write into them.

        Args:
            updates: of the forecast, where there is something to learn a slope from.
        """
        self.finished.pop(block, None)
        self.fresh.discard(block)
        self._while(lambda: not self.tiers.lost, block, lambda: self._put(block, k, v, updates))

    def update(
        self,
        block: int,
        k: Tensor,
        v: Tensor,
        rows: Tensor,
        length: int,
        updates: RowUpdates | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Write new rows `(B, n, C)`, all below `length`, and return at least the first `length`
        rows `(B, length, C)`, in the model's dtype on its device; the others forecast where
        `updates` are given and there are slopes."""
        work = partial(self._update, block, k, v, rows, length, updates)
        # the check raises rather than end it
        return cast("tuple[Tensor, Tensor]", self._while(self.tiers.check_kept, block, work))

    def done(self, block: int) -> Finished:
        """Rows at the front that no longer match the clip's rows one to one."""
        return self.finished.get(block, Finished())

    def grow(self, block: int, like: Tensor, end: int) -> None:
        """Make room for the clip's rows up to `end`. New memory is not written to."""
        self.tiers.check_kept()
        size = end + self.done(block).shift
        if block not in self.entries:
            self._while(self.tiers.check_kept, block, lambda: self._begin(block, like, size))
        self.fresh.add(block)
        if self.entries[block].form.rows < size:
            before = self.entries[block].form.rows
            self._replace(block, lambda entry: entry.resized(size))
            self._replace_slopes(block, lambda s: cleared(s.resized(size), slice(before, size)))

    def compress(self, block: int, q: Tensor, rows: int, keep: int, heads: int) -> None:
        """Keep the most telling keys and values of the clip's first rows, which are finished.

        Args:
            q: queries `(B, m, share * C)` of a chunk that is being denoised.
            rows: finished rows of the clip.
            keep: rows of the store they may take.
            heads: of the keys.
        """
        held = rows + self.done(block).shift
        if held <= keep:
            return

        def compressed(entry: BlockKV) -> BlockKV:
            k, v = (t[:, :held] for t in entry.read(held))
            return entry.with_first(held, *compress_kv(q, k, v, keep, heads=heads))

        self._replace(block, compressed)
        self._replace_slopes(block, lambda slopes: for_fewer(slopes, held, keep))
        self.finished[block] = Finished(rows, keep)

    def slide(self, rows: int, keep: bool) -> None:
        """The clip's first rows leave.

        Args:
            keep: their keys and values stay, at the front, to be compressed with those that
                finish later.
        """
        for block in list(self.entries):
            done = self.done(block)
            if keep:
                leaving = max(rows, done.rows)
                self.finished[block] = Finished(leaving - rows, leaving + done.shift)
                continue
            self._replace(block, lambda entry: entry.without_first(rows))
            self._replace_slopes(block, lambda slopes: slopes.without_first(rows))

    def nbytes(self) -> tuple[int, int]:
        """Bytes on the model's device, and in the host's memory besides."""
        sizes = [entry.nbytes() for entry in (*self.entries.values(), *self.slopes.values())]
        return sum(s[0] for s in sizes), sum(s[1] for s in sizes)

    def make_room(self) -> bool:
        """Move everything one tier down, because the model ran out of memory; whether there is
        more room now."""
        before = self.nbytes()[0]
        if before == 0 or self.tiers.lost:
            return False
        # where slopes are the next to go, there may be none yet
        for _ in range(1 + self.tiers.forecast):
            if self.nbytes()[0] == before:
                self._step_down(min(self.entries))
        return self.nbytes()[0] < before

    def drop(self) -> None:
        """Keep nothing."""
        self.entries, self.slopes, self.fresh, self.finished = {}, {}, set(), {}
        self.tiers.shared.release()

    def rows(self, rows: slice) -> KVStore:
        """A view of some batch rows."""
        return KVStore(
            self.blocks,
            self.tiers,
            {i: entry.part(rows) for i, entry in self.entries.items()},
            {i: slopes.part(rows) for i, slopes in self.slopes.items()},
            set(self.fresh),
            dict(self.finished),
        )

    @classmethod
    def join(cls, parts: Sequence[KVStore]) -> KVStore:
        """Concatenate over the batch, without blocks that one lacks or holds in another form."""
        common = {
            i
            for i in set.intersection(*(p.fresh for p in parts))
            if len({(p.entries[i].form.rows, p.done(i).shift) for p in parts}) == 1
        }
        first = parts[0]
        joined = cls(
            first.blocks,
            first.tiers,
            {i: first.entries[i] for i in common},
            {i: first.slopes[i] for i in common if all(i in p.slopes for p in parts)},
            set(common),
            {i: done for i, done in first.finished.items() if i in common},
        )
        for i in sorted(common):
            joined._replace(i, partial(joined._joined, i, [p.entries[i] for p in parts[1:]]))
            if joined._slopes(i):
                joined._replace_slopes(i, methodcaller("joined", [p.slopes[i] for p in parts[1:]]))
        return joined

    def _begin(self, block: int, like: Tensor, size: int) -> None:
        form = KVShape(like.shape[0], size, like.shape[2], like.dtype, like.device)
        self.entries[block] = self._kind(block).empty(self.tiers.shared, form)
        self._begin_slopes(block)

    def _while(self, wanted: Callable[[], bool], block: int, work: Callable[[], T]) -> T | None:
        """What `work` returns; where memory runs out, done again after the block stepped down, as
        long as it is wanted. It then returns None."""
        while wanted():
            try:
                return work()
            except torch.OutOfMemoryError:
                pass
            self._step_down(block)
        return None

    def _kind(self, block: int) -> type[BlockKV]:
        return TIERS[self.tiers.tiers[block]]

    def _put(self, block: int, k: Tensor, v: Tensor, updates: RowUpdates | None) -> None:
        old, slopes = self.entries.get(block), self._slopes(block)
        if old is not None and slopes and updates and old.form == KVShape.of(k):
            learn(old, slopes, k, v, updates.parts)
        else:
            self.slopes.pop(block, None)
            self.entries[block] = self._kind(block).keeping(self.tiers.shared, k, v, old)
            self._begin_slopes(block)
        self.fresh.add(block)

    def _update(
        self,
        block: int,
        k: Tensor,
        v: Tensor,
        rows: Tensor,
        length: int,
        updates: RowUpdates | None,
    ) -> tuple[Tensor, Tensor]:
        entry, slopes = self.entries[block], self._slopes(block)
        if slopes and updates:
            done = self.done(block)
            known = updates.of_store(done.rows, done.kept, entry.form.rows)
            return carry_on(entry, slopes, k, v, rows, known)
        # both before the rows are written back, which can wait
        entry.prefetch(length)
        self._prefetch_behind(block, length)
        return entry.update(k, v, rows, length)

    def _slopes(self, block: int) -> BlockKV | None:
        """A block's slopes, as long as slopes are kept."""
        if not self.tiers.forecast:
            self.slopes.clear()
        return self.slopes.get(block)

    def _begin_slopes(self, block: int) -> None:
        kind = self._kind(block)
        if self.tiers.forecast and kind.tier in FORECASTING:
            self.slopes[block] = no_slopes(self.tiers.shared, kind, self.entries[block].form)

    def _replace_slopes(self, block: int, work: Callable[[BlockKV], BlockKV]) -> None:
        def put() -> None:
            self.slopes[block] = work(self.slopes[block])

        # out of memory, slopes are the first to go
        self._while(lambda: self._slopes(block) is not None, block, put)

    def _prefetch_behind(self, block: int, length: int) -> None:
        """The next block on the host is copied while this one and those between compute."""
        following = (i for i in range(block + 1, self.blocks) if self.tiers.tiers[i] == "cpu")
        entry = self.entries.get(next(following, -1))
        if entry is not None and entry.form.rows >= length:
            entry.prefetch(length)

    def _replace(self, block: int, work: Callable[[BlockKV], BlockKV]) -> None:
        """Put what `work` makes of a block's entry in its place."""

        def put() -> None:
            self.entries[block] = work(self.entries[block])

        self._while(lambda: block in self.entries, block, put)

    def _step_down(self, block: int) -> None:
        """Slopes are dropped, or from this block on everything goes one tier down."""
        forecast = self.tiers.forecast
        if not self.tiers.step_down(block):
            self.drop()
            return
        if forecast:
            self.slopes.clear()
            return
        for i in sorted(i for i in self.entries if i >= block):
            if i in self.fresh:
                self._replace(i, partial(self._placed, i))
            else:
                # a full evaluation is under way, and about to replace it
                self.entries.pop(i, None)

    def _joined(self, block: int, others: Sequence[BlockKV], entry: BlockKV) -> BlockKV:
        placed = [self._placed(block, other) for other in others]
        return self._placed(block, entry).joined(placed)

    def _placed(self, block: int, entry: BlockKV) -> BlockKV:
        """The entry, moved to where the block's belongs."""
        kind = self._kind(block)
        if type(entry) is kind:
            return entry
        new = kind.empty(self.tiers.shared, entry.form)
        new.write(*(t[:, : entry.form.rows] for t in entry.read(entry.form.rows)))
        return new
