"""Keys and values of every block, so that a few active rows can attend to all rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .kv_compress import compress_kv
from .ops import TokenOps

log = logging.getLogger(__name__)

# share of the host's free memory that the store may take
_MEMORY_SHARE = 0.8


@dataclass(slots=True)
class Finished:
    """Rows of finished chunks at the front of a block's store.

    Attributes:
        rows: rows of the clip they stand for.
        kept: rows of the store they take; fewer once they are compressed.
    """

    rows: int = 0
    kept: int = 0

    @property
    def shift(self) -> int:
        """Row of the store minus row of the clip, for the rows behind."""
        return self.kept - self.rows


@dataclass(slots=True)
class KVStore:
    """Post-rotary keys and values `(B, L, C)` per block, in the model's dtype on its device.

    Attributes:
        finished: per block, rows at the front that no longer match the clip's rows one to one.
    """

    blocks: int
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    fresh: set[int] = field(default_factory=set)
    finished: dict[int, Finished] = field(default_factory=dict)

    def begin_dense(self) -> None:
        """A full evaluation starts; blocks it does not reach are not to be read afterwards."""
        self.fresh = set()

    @property
    def complete(self) -> bool:
        """Whether the last full evaluation stored every block."""
        return len(self.fresh) == self.blocks

    def put(self, block: int, k: Tensor, v: Tensor) -> None:
        """Keep a block's tensors. They are kept as they are, without a copy, when they own
        their memory; partial evaluations then write into them."""
        self.keys[block], self.values[block] = _owned(k), _owned(v)
        self.finished.pop(block, None)
        self.fresh.add(block)

    def scatter(
        self, block: int, k: Tensor, v: Tensor, rows: Tensor, ops: TokenOps
    ) -> tuple[Tensor, Tensor]:
        """Write new rows `(B, n, C)` and return all rows `(B, L, C)`."""
        ops.scatter_kv(k, v, rows, self.keys[block], self.values[block])
        return self.keys[block], self.values[block]

    def shift(self, block: int) -> int:
        """Row of the store minus row of the clip."""
        return self.finished[block].shift if block in self.finished else 0

    def compressed_rows(self, block: int) -> int:
        """Rows of the clip, from its first one, that are held in another form."""
        return self.finished[block].rows if block in self.finished else 0

    def grow(self, block: int, like: Tensor, end: int) -> None:
        """Make room for the clip's rows up to `end`. New memory is not written to."""
        size = end + self.shift(block)
        for store in (self.keys, self.values):
            old = store.get(block)
            if old is not None and old.shape[1] >= size:
                continue
            store[block] = like.new_empty(like.shape[0], size, like.shape[2])
            if old is not None:
                store[block][:, : old.shape[1]] = old
        self.fresh.add(block)

    def compress(self, block: int, q: Tensor, rows: int, keep: int, heads: int) -> None:
        """Keep the most telling keys and values of the clip's first rows, which are finished.

        Args:
            q: queries `(B, m, C)` of a chunk that is being denoised.
            rows: finished rows of the clip.
            keep: rows of the store they may take.
        """
        held = rows + self.shift(block)
        if held <= keep:
            return
        k, v = self.keys[block], self.values[block]
        kept = compress_kv(q, k[:, :held], v[:, :held], keep, heads=heads)
        self.keys[block] = torch.cat((kept[0], k[:, held:]), dim=1)
        self.values[block] = torch.cat((kept[1], v[:, held:]), dim=1)
        self.finished[block] = Finished(rows, keep)

    def slide(self, rows: int, keep: bool) -> None:
        """The clip's first rows leave.

        Args:
            keep: their keys and values stay, at the front, to be compressed with those that
                finish later.
        """
        for block in list(self.keys):
            done = self.finished.get(block, Finished())
            if keep:
                leaving = max(rows, done.rows)
                self.finished[block] = Finished(leaving - rows, leaving + done.shift)
                continue
            for store in (self.keys, self.values):
                store[block] = store[block][:, rows:].clone()

    def nbytes(self) -> int:
        return sum(t.nbytes for store in (self.keys, self.values) for t in store.values())

    def rows(self, rows: slice) -> KVStore:
        """A view of some batch rows."""
        return KVStore(
            self.blocks,
            {i: k[rows] for i, k in self.keys.items()},
            {i: v[rows] for i, v in self.values.items()},
            set(self.fresh),
            dict(self.finished),
        )

    @classmethod
    def join(cls, parts: Sequence[KVStore]) -> KVStore:
        """Concatenate over the batch; blocks that one part lacks, or holds in another form, are
        dropped."""
        common = {
            i
            for i in set.intersection(*(p.fresh for p in parts))
            if len({(p.keys[i].shape[1], p.shift(i)) for p in parts}) == 1
        }
        return cls(
            parts[0].blocks,
            {i: torch.cat([p.keys[i] for p in parts]) for i in common},
            {i: torch.cat([p.values[i] for p in parts]) for i in common},
            common,
            {i: done for i, done in parts[0].finished.items() if i in common},
        )


def _owned(x: Tensor) -> Tensor:
    whole = x.is_contiguous() and x.untyped_storage().nbytes() == x.nbytes
    return x if whole else x.clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where keys and values go, how many bytes that takes, and why."""

    store: bool
    nbytes: int
    reason: str


def place(
    kv_cache: str,
    nbytes: int,
    policy: str,
    free_memory: Callable[[], int] | None,
    chunks: int = 1,
) -> Placement:
    """Choose before the run from the bytes needed and the host's free memory.

    Args:
        kv_cache: "gpu", "off" or "auto".
        nbytes: keys and values of all branches, all blocks.
        free_memory: free bytes on the model's device; None where the host cannot tell.
        chunks: chunks of the clip; one may be reused while another is computed.
    """
    size = f"{nbytes / 2**20:.0f} MiB"
    if policy == "step" or (policy == "chunk" and chunks == 1):
        return Placement(False, 0, f"policy {policy!r} has no partial evaluations")
    if kv_cache == "off":
        return Placement(False, 0, "kv_cache is off: whole chunks are reused or computed")
    if kv_cache == "gpu" or free_memory is None:
        return Placement(True, nbytes, f"{size} on the model's device")
    free = free_memory()
    if nbytes <= _MEMORY_SHARE * free:
        return Placement(True, nbytes, f"{size} of {free / 2**20:.0f} MiB free")
    return Placement(
        False,
        0,
        f"keys and values need {size}, {free / 2**20:.0f} MiB are free: whole chunks are reused "
        "or computed. Use a smaller video, or force kv_cache 'gpu'",
    )


def place_causal(nbytes: int, free_memory: Callable[[], int] | None) -> Placement:
    """Block-causal attention always keeps keys and values; says so where they may not fit.

    Args:
        nbytes: keys and values of all branches, all blocks, once every chunk has started.
        free_memory: see `place`.
    """
    size = f"{nbytes / 2**20:.0f} MiB at most; block-causal attention needs them"
    free = None if free_memory is None else free_memory()
    if free is None or nbytes <= _MEMORY_SHARE * free:
        return Placement(True, nbytes, size)
    reason = (
        f"{size}, and {free / 2**20:.0f} MiB are free: set window_frames or kv_keep if memory runs "
        "out"
    )
    log.warning("MotionCache - keys and values: %s.", reason)
    return Placement(True, nbytes, reason)
