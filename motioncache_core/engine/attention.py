"""Attention of the blocks of one call: active rows see the stored keys and values of all rows.

An attention call is known by its place in its block, by how many keys it has, and by who makes it:
another node may have put one in front, or taken one away.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import CodeType, FrameType
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
# code of the calling frames, and where in it they are
Caller = tuple[tuple[CodeType, int], ...]

# frames that tell attention calls apart: the host's dispatch, the module, its block
_FRAMES = 3


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
        copies: whether blocks use their outputs' memory again, as CUDA graphs do. They are
            compiled then, and who calls is not to be seen.
        callers: who made the call of each slot in the last full evaluation; filled there.
    """

    def __init__(
        self,
        previous: Callable[..., Tensor] | None,
        copies: bool,
        callers: dict[int, Caller] | None = None,
    ) -> None:
        self._previous, self._copies = previous, copies
        self._callers = {} if callers is None else callers
        self._plan: CallPlan | None = None
        self._kv: KVStore | None = None
        self._gather: RowGather | None = None
        self._sites: dict[int, StoredSite] = {}
        self._queries: Mapping[int, Attend] = {}
        self._calls = self._met = 0
        # keys of the last key site as the host gave them, and keys and values attended to
        self._last_keys: tuple[Tensor, tuple[Tensor, Tensor]] | None = None
        self.attended = self._missed = False

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
        self._calls = self._met = 0
        expected = len(self._sites)
        try:
            yield
        finally:
            self._missed = self._met < expected
            self._sites, self._queries, self._last_keys = {}, {}, None

    def check_attended(self, block: int) -> None:
        """A block that attends to its active rows alone gives a wrong answer.

        Raises:
            UnsupportedModelError: the block that has just run did.
        """
        attended = not self._missed
        self.attended |= attended
        if not attended and self._gather is not None:
            raise UnsupportedModelError(f"block {block}: {BYPASSED}")

    def call(self, func: Attend, *args: Any, **kwargs: Any) -> Tensor:
        """One attention call of a block.

        Args:
            func: the host's attention, called with the other arguments.
        """
        names = ("q", "k", "v")
        tensors = dict(zip(names, args, strict=False)) | {
            n: kwargs.pop(n) for n in names if n in kwargs
        }
        q, k, v = (tensors[n] for n in names)
        if self._last_keys is not None and k is self._last_keys[0]:
            # the host has split the queries of one attention
            return self._host(func, q, *self._last_keys[1], *args[3:], **kwargs)
        self._calls += 1
        plan, kv, at = self._plan, self._kv, self._sites.get(self._calls)
        if self._calls in self._queries:
            answer = self._queries[self._calls]
            return answer(partial(self._host, func), q, k, v, *args[3:], **kwargs)
        if at is None or plan is None or kv is None:
            return self._host(func, q, k, v, *args[3:], **kwargs)
        kept = at.site.flat(k), at.site.flat(v)
        if not self._is_site(at, kept[0].shape[1], plan):
            return self._host(func, q, k, v, *args[3:], **kwargs)
        kept = kept[0].contiguous(), kept[1].contiguous()
        if self._copies:
            kept = kept[0].clone(), kept[1].clone()
        updates = plan.kv_updates
        if updates is not None and (at.before or at.behind):
            updates = updates.around(at.before, at.behind, plan.computed)
        gather = self._gather
        if gather is None:
            kv.put(at.slot, *kept, updates)
            self._last_keys = k, (k, v)
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
        self._last_keys = k, shaped
        return attend(q, *shaped, *args[3:], **kwargs)

    def _is_site(self, at: StoredSite, keys: int, plan: CallPlan) -> bool:
        """Whether the call that is made is the one whose keys are kept.

        Raises:
            UnsupportedModelError: it is not, in a partial evaluation.
        """
        caller = () if self._copies or at.site.several_callers else _caller()
        wanted = at.before + plan.computed + at.behind
        if self._gather is not None:
            wanted += self._gather.padding(at.before, at.behind)
        if self._gather is None:
            found = keys == wanted
            self._callers[at.slot] = caller
        else:
            found = keys == wanted and caller == self._callers.get(at.slot, caller)
            if not found:
                raise UnsupportedModelError(
                    f"an attention call has {keys} keys where {wanted} were expected, or is made "
                    "by other code than in the last full evaluation"
                )
        self._met += found
        return found

    def _host(self, func: Attend, *args: Any, **kwargs: Any) -> Tensor:
        if self._previous is not None:
            return self._previous(func, *args, **kwargs)
        return func(*args, **kwargs)


def _caller() -> Caller:
    """The frames that an attention call comes from, but for torch's and ours."""
    frame: FrameType | None = sys._getframe(1)
    found: list[tuple[CodeType, int]] = []
    while frame is not None and len(found) < _FRAMES:
        if not frame.f_code.co_filename.startswith(_NOT_CALLERS):
            found.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)


_NOT_CALLERS = (f"{Path(torch.__file__).parent}{os.sep}", __file__)
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
