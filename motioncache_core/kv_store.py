"""Keys and values of every block, so that a few active rows can attend to all rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .ops import TokenOps

# share of the host's free memory that the store may take
_MEMORY_SHARE = 0.8


@dataclass(slots=True)
class KVStore:
    """Post-rotary keys and values `(B, L, C)` per block, in the model's dtype on its device."""

    blocks: int
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    fresh: set[int] = field(default_factory=set)

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
        self.fresh.add(block)

    def scatter(
        self, block: int, k: Tensor, v: Tensor, rows: Tensor, ops: TokenOps
    ) -> tuple[Tensor, Tensor]:
        """Write new rows `(B, n, C)` and return all rows `(B, L, C)`."""
        ops.scatter_kv(k, v, rows, self.keys[block], self.values[block])
        return self.keys[block], self.values[block]

    def nbytes(self) -> int:
        return sum(t.nbytes for store in (self.keys, self.values) for t in store.values())

    def rows(self, rows: slice) -> KVStore:
        """A view of some batch rows."""
        return KVStore(
            self.blocks,
            {i: k[rows] for i, k in self.keys.items()},
            {i: v[rows] for i, v in self.values.items()},
            set(self.fresh),
        )

    @classmethod
    def join(cls, parts: Sequence[KVStore]) -> KVStore:
        """Concatenate over the batch; blocks that one part lacks are dropped."""
        common = set.intersection(*(p.fresh for p in parts))
        return cls(
            parts[0].blocks,
            {i: torch.cat([p.keys[i] for p in parts]) for i in common},
            {i: torch.cat([p.values[i] for p in parts]) for i in common},
            common,
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
