"""One call of the network: the hooks that make it dense, partial or reused.

The model's own blocks run. Our hooks stand in front of those that other nodes have put in, and let
attention see the stored keys and values of all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn

from ..common.decision_kinds import DENSE, REUSE
from ..common.protocols import TokenOps
from ..common.token_layout import TokenLayout
from ..models.adapter import Adapter, Around, ModelFacts
from ..models.block_stream import GRID, BlockRun, SideBlocks
from .attention import BYPASSED, BlockAttention, Caller, StoredSite, attention_hook
from .call_rows import CallRows, Planner
from .compiled_blocks import few_sizes, in_a_run
from .retry_with_room import retry_with_room
from .shadow import BlockFunction, BlockPatch, beside, hidden


class BlockHooks:
    """The hooks of one call. Made for the call and dropped after it.

    Args:
        layout: of the video rows.
        network: has the blocks.
        around: what stands around the video rows.
        compiled: see `find_compiled`.
        callers: see `BlockAttention`.

    Attributes:
        rows: what goes through the blocks.
        failed: what went wrong in a partial evaluation, whoever has caught it since.
        block_calls: how often an original block was called.
    """

    def __init__(
        self,
        planner: Planner,
        ops: TokenOps,
        layout: TokenLayout,
        adapter: Adapter,
        facts: ModelFacts,
        network: object = None,
        around: Around | None = None,
        compiled: nn.Module | None = None,
        callers: dict[int, Caller] | None = None,
    ) -> None:
        self._layout = layout
        self._blocks, self._compiled = adapter.blocks(facts), compiled
        self._network, self._side = network, adapter.side
        self._callers = callers
        self._attention = BlockAttention(None, copies=False)
        # for blocks that the host does not let us replace
        self._hidden: dict[tuple[str, int], BlockPatch] = {}
        self.rows = CallRows(planner, ops, layout, around or Around(), len(self._blocks))
        self.rows.copies = any(run.writes_input for run, _ in self._blocks)
        self.failed: str | None = None
        self.block_calls = 0

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of the host's options with our hooks in front of the ones already there."""
        previous = options.get("optimized_attention_override")
        copies = self._compiled is not None
        self._attention = BlockAttention(previous, copies, self._callers)
        replaced = dict(options.get("patches_replace", {}))
        patches = dict(replaced.get("dit", {}))
        slot = 0
        keys = [(run.hook, i) for run, i in self._blocks]
        # another pack's replacement may write into the tokens, whatever the blocks themselves do
        self.rows.copies |= any(key in patches for key in keys)
        for index, (run, i) in enumerate(self._blocks):
            own = None if run.call is None else partial(run.call, self._network, i)
            key, held = (run.hook, i), patches if run.shadow is None else self._hidden
            held[key] = self._patch(index, run, slot, patches.get(key), own)
            slot += len(run.keys)
        replaced["dit"] = patches
        grid = self._layout.frames, self._layout.height, self._layout.width
        return {
            **options,
            **({GRID: grid} if self._hidden else {}),
            "patches_replace": replaced,
            "optimized_attention_override": attention_hook(),
        }

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the network is called with `options`."""
        with ExitStack() as stack:
            stack.enter_context(self._attention.in_call())
            for run in {run.hook: run for run, _ in self._blocks}.values():
                if run.shadow is not None:
                    stack.enter_context(
                        hidden(self._network, run, self._hidden, lambda: self.rows.gather)
                    )
            if self._side is not None:
                stack.enter_context(beside(self._network, self._side, self._run_beside))
            yield

    def _run_beside(
        self,
        side: SideBlocks,
        index: int,
        block: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        # their keys are kept behind those of the stack
        slot = sum(len(run.keys) for run, _ in self._blocks) + index
        gather = self.rows.gather
        if self.rows.plan.kind == REUSE:
            return side.skip(*args, **kwargs)
        if gather is not None:
            taken = partial(side.take, index, args, kwargs, gather)
            args, kwargs = retry_with_room(self.rows.state, taken)

        def run() -> Any:
            with self._attention.in_block([StoredSite(slot, side.site, 0, 0)]):
                return block(*args, **kwargs)

        out = retry_with_room(self.rows.state, run)
        self._attention.check_attended(slot)
        return out

    def _patch(
        self,
        index: int,
        run: BlockRun,
        slot: int,
        previous: BlockPatch | None,
        own: BlockFunction | None,
    ) -> BlockPatch:
        def patch(args: dict[str, Any], extra: dict[str, BlockFunction]) -> dict[str, Any]:
            original = own or extra["original_block"]

            def counted(call: dict[str, Any]) -> dict[str, Any]:
                self.block_calls += 1
                # what a block has written into its input cannot be run again; the whole call can
                branches = None if run.writes_input else self.rows.state
                with self._noting():
                    out = retry_with_room(
                        branches, lambda: self._run_original(run, slot, original, call)
                    )
                    self._attention.check_attended(index)
                return out

            def chained(call: dict[str, Any]) -> dict[str, Any]:
                if previous is None:
                    return counted(call)
                return previous(call, {**extra, "original_block": counted})

            with self._noting():
                return self._run_block(index, run, args, chained)

        return patch

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """What goes wrong in a partial evaluation, inside of code that may catch it."""
        try:
            yield
        except Exception as error:
            if self.rows.gather is not None:
                self.failed = self.failed or str(error)
            raise

    def _run_original(
        self, run: BlockRun, slot: int, original: BlockFunction, call: dict[str, Any]
    ) -> dict[str, Any]:
        sites = [StoredSite(slot + i, s, *s.around(call)) for i, s in enumerate(run.keys)]
        gather = self.rows.gather
        told = {}
        if gather is not None:
            told = {q.call: partial(q.attend, gather, call) for q in run.queries}
        with ExitStack() as stack:
            stack.enter_context(self._attention.in_block(sites, told))
            if self._compiled is not None:
                stream = run.stream(call)
                stack.enter_context(in_a_run(stream.tokens.device))
                if self.rows.gather is not None:
                    stack.enter_context(few_sizes(self._compiled, stream))
            return original(call)

    def _run_block(
        self, index: int, run: BlockRun, args: dict[str, Any], block: BlockFunction
    ) -> dict[str, Any]:
        rows = self.rows
        if index == 0:
            args = rows.begin(run, args)
            self._attention.begin(rows.plan, rows.kv, rows.gather)
        out = rows.run(index, run, args, block)
        last, plan = index == len(self._blocks) - 1, rows.plan
        if last and plan.kind == DENSE and self._bypassed:
            plan.note = plan.note or BYPASSED
        return out

    @property
    def _bypassed(self) -> bool:
        """Whether keys and values are kept, and no block that ran has come by ours."""
        kept = self.rows.kv is not None
        return kept and self.block_calls > 0 and not self._attention.attended
