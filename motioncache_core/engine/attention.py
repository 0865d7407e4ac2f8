"""Attention of the blocks of one call: active rows see the stored keys and values of all rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from ..cache.kv_store import KVStore
from ..common.errors import CacheShapeError, UnsupportedModelError
from ..common.reasons import because
from ..models.block_stream import KeySite, RowGather
from .block_causal import block_causal
from .call_plan import CallPlan

BYPASSED = because("attention_bypassed")

Attend = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class StoredSite:
    """A key site of the block that runs, and where its keys are kept.

    Attributes:
        slot: its number in the store.
        before, behind: rows around the video's in its keys.
    """

    slot: int
    site: KeySite
    before: int
    behind: int


class BlockAttention:
    """The attention calls of one call of the network.

    Args:
        previous: the override that was there before ours.
        copies: whether blocks use their outputs' memory again, as CUDA graphs do.
    """

    def __init__(self, previous: Callable[..., Tensor] | None, copies: bool) -> None:
        self._previous, self._copies = previous, copies
        self._plan: CallPlan | None = None
        self._kv: KVStore | None = None
        self._gather: RowGather | None = None
        self._sites: dict[int, StoredSite] = {}
        self._queries: Mapping[int, Attend] = {}
        self._last, self._calls = 0, 0
        self.attended = False

    def begin(self, plan: CallPlan, kv: KVStore | None, gather: RowGather | None) -> None:
        """The call's plan is made."""
        self._plan, self._kv, self._gather = plan, kv, gather

    @contextmanager
    def in_call(self) -> Iterator[None]:
        """The network runs. What it attends to outside of its blocks is the host's, and the
        override's that was there before."""
        token = _RUNNING.set(self)
        try:
            yield
        finally:
            _RUNNING.reset(token)

    @contextmanager
    def in_block(
        self, sites: list[StoredSite], queries: Mapping[int, Attend] | None = None
    ) -> Iterator[None]:
        """A block with these key sites runs.

        Args:
            queries: attention calls that are answered by these.
        """
        self._sites, self._queries = {s.site.call: s for s in sites}, queries or {}
        self._last, self._calls = max(self._sites, default=0), 0
        try:
            yield
        finally:
            self._sites, self._queries = {}, {}

    def check_attended(self, block: int) -> None:
        """A block that attends to its active rows alone gives a wrong answer.

        Raises:
            UnsupportedModelError: the block that has just run did.
        """
        attended = self._calls >= self._last
        self.attended |= attended
        if not attended and self._gather is not None:
            raise UnsupportedModelError(f"block {block}: {BYPASSED}")

    def call(self, func: Attend, *args: Any, **kwargs: Any) -> Tensor:
        """One attention call of a block.

        Args:
            func: the host's attention, called with the other arguments.
        """
        self._calls += 1
        plan, kv, at = self._plan, self._kv, self._sites.get(self._calls)
        if self._calls in self._queries:
            return self._queries[self._calls](partial(self._host, func), *args, **kwargs)
        if at is None or plan is None or kv is None:
            return self._host(func, *args, **kwargs)
        names = ("q", "k", "v")
        tensors = dict(zip(names, args, strict=False)) | {
            n: kwargs.pop(n) for n in names if n in kwargs
        }
        q, k, v = (tensors[n] for n in names)
        kept = at.site.flat(k).contiguous(), at.site.flat(v).contiguous()
        if self._copies:
            kept = kept[0].clone(), kept[1].clone()
        updates = plan.kv_updates
        if updates is not None and (at.before or at.behind):
            updates = updates.around(at.before, at.behind, plan.computed)
        gather = self._gather
        if gather is None:
            kv.put(at.slot, *kept, updates)
            return self._host(func, q, k, v, *args[3:], **kwargs)
        if kwargs.get("mask") is not None and not at.site.mask:
            raise CacheShapeError("a partial evaluation cannot use an attention mask")
        attend = partial(self._host, func)
        if plan.causal is not None:
            return block_causal(
                plan.causal, gather.rows, kv, at.slot, (q, *kept),
                lambda *qkv: attend(*qkv, *args[3:], **kwargs), updates,
            )  # fmt: skip
        length = at.before + gather.tokens + at.behind
        kv.grow(at.slot, kept[0], length)
        rows = gather.around(at.before, at.behind)
        keys, values = kv.update(at.slot, *kept, rows, length, updates)
        shaped = at.site.shaped(keys, k), at.site.shaped(values, v)
        return attend(q, *shaped, *args[3:], **kwargs)

    def _host(self, func: Attend, *args: Any, **kwargs: Any) -> Tensor:
        if self._previous is not None:
            return self._previous(func, *args, **kwargs)
        return func(*args, **kwargs)


_RUNNING: ContextVar[BlockAttention | None] = ContextVar("motioncache_attention", default=None)


def _attend(func: Attend, *args: Any, **kwargs: Any) -> Tensor:
    attention = _RUNNING.get()
    if attention is None:
        # compiled code can outlast the run that it was compiled in
        return func(*args, **kwargs)
    return attention.call(func, *args, **kwargs)


@cache
def _untraced() -> Attend:
    hook: Attend = torch.compiler.disable(_attend)
    return hook


def attention_hook() -> Attend:
    """The same function for all calls, so that compiled code stays valid, and never traced."""
    # importing the compiler takes a second, and without it nothing is compiled
    return _untraced() if "torch._dynamo" in sys.modules else _attend
