"""Block-causal attention: a chunk attends to itself and to stored keys of the chunks before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cache.kv_store import KVStore
from ..cache.row_update import RowUpdates


@dataclass(frozen=True, slots=True)
class Segment:
    """Queries that attend to the same keys.

    Attributes:
        batch: batch rows.
        queries: positions in the call's list of active rows.
        end: the keys are all rows of the clip before this one.
    """

    batch: slice
    queries: slice
    end: int


@dataclass(frozen=True, slots=True)
class Compression:
    """What to keep of finished chunks (FlowCache, arXiv 2602.10825).

    Attributes:
        rows: finished rows of the clip.
        keep: rows of the store they may take.
        heads: attention heads.
        queries: positions of the queries that weigh them, in the call's list of active rows; None
            where no chunk is denoised in this call, which then compresses nothing.
    """

    rows: int
    keep: int
    heads: int
    queries: slice | None


@dataclass(frozen=True, slots=True)
class CausalPlan:
    """Who attends to what in one call.

    Attributes:
        end: rows of the clip that exist so far, up to the end of the newest chunk that started.
    """

    segments: tuple[Segment, ...]
    end: int
    compression: Compression | None = None

    def pairs(self, shift: int) -> int:
        """Query-key pairs, of the batch row that has most; the store has `shift` more rows than
        the clip."""
        count: dict[int, int] = {}
        for s in self.segments:
            size = (s.queries.stop - s.queries.start) * (s.end + shift)
            count[s.batch.start] = count.get(s.batch.start, 0) + size
        return max(count.values(), default=0)


def block_causal(
    plan: CausalPlan,
    rows: Tensor,
    kv: KVStore,
    block: int,
    qkv: tuple[Tensor, Tensor, Tensor],
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    updates: RowUpdates | None = None,
) -> Tensor:
    """Self-attention of the active rows, one call per segment.

    Args:
        rows: active rows `(1 or B, n)` int32, padded with -1.
        qkv: of the active rows, `(B, n, C)` each; keys and values are stored.
        attend: the host's attention.
        updates: of the forecast of keys and values.
    """
    q, k, v = qkv
    kv.grow(block, k, plan.end)
    done = kv.done(block)
    shift, gone = done.shift, done.rows
    # padding stays negative; rows that are compressed already have no place of their own
    at = torch.where(rows < gone, -1, rows + shift) if shift or gone else rows
    keys, values = kv.update(block, k, v, at, plan.end + shift, updates)
    segments = plan.segments
    if len(segments) == 1 and segments[0].queries.stop == q.shape[1]:
        end = segments[0].end + shift
        out = attend(q, keys[:, :end], values[:, :end])
    else:
        out = torch.zeros_like(q)
        for s in segments:
            held = (s.batch, slice(0, s.end + shift))
            own = (s.batch, s.queries)
            out[own] = attend(q[own], keys[held], values[held])
    c = plan.compression
    if c is not None and c.queries is not None:
        kv.compress(block, q[:, c.queries], c.rows, c.keep, c.heads)
    return out
