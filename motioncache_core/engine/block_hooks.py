"""One call of the network: the hooks that make it dense, partial or reused.

The model's own blocks run. A partial call gathers the active rows before the first block, hands
every block the matching rotary and modulation rows, lets attention see the stored keys and values
of all rows, and scatters the result back after the last block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..cache import residuals
from ..cache.branches import BranchRows
from ..common.decision_kinds import DENSE, PARTIAL, REUSE
from ..common.errors import CacheShapeError
from ..common.protocols import TokenOps
from ..common.token_layout import TokenLayout
from ..models.adapter import Adapter, ModelFacts
from ..models.block_stream import BlockRun, BlockStream, RowGather
from .attention import BYPASSED, BlockAttention, Caller, StoredSite, attention_hook
from .call_plan import CallPlan
from .compiled_blocks import few_sizes, in_a_run
from .retry_with_room import retry_with_room

NOT_HOOKED = "no block was reached: the model did not call its block hooks"

# decides when the first block is reached, from what enters it and the rows around the video's in
# the keys of its attention
Planner = Callable[[BlockStream, int], tuple[CallPlan, BranchRows]]
BlockFunction = Callable[[dict[str, Any]], dict[str, Any]]
BlockPatch = Callable[[dict[str, Any], dict[str, BlockFunction]], dict[str, Any]]


class BlockHooks:
    """The hooks of one call. Made for the call and dropped after it.

    Args:
        tokens: video rows L.
        compiled: see `find_compiled`.
        callers: see `BlockAttention`.

    Attributes:
        failed: what went wrong in a partial evaluation, whoever has caught it since.
        output: video rows behind the last block, `(B, L, C)`.
        block_calls: how often an original block was called.
    """

    def __init__(
        self,
        planner: Planner,
        ops: TokenOps,
        tokens: int,
        adapter: Adapter,
        facts: ModelFacts,
        compiled: nn.Module | None = None,
        callers: dict[int, Caller] | None = None,
    ) -> None:
        self._planner, self._ops, self._tokens = planner, ops, tokens
        self._blocks, self._compiled = adapter.blocks(facts), compiled
        self._copies = any(run.writes_input for run, _ in self._blocks)
        self._callers = callers
        self._attention = BlockAttention(None, copies=False)
        self._plan: CallPlan | None = None
        self._state: BranchRows | None = None
        self._input: Tensor | None = None
        self._gather: RowGather | None = None
        self.failed: str | None = None
        self.output: Tensor | None = None
        self.block_calls = 0

    @property
    def plan(self) -> CallPlan:
        """The plan; made when the first block is reached."""
        if self._plan is None:
            raise CacheShapeError(NOT_HOOKED)
        return self._plan

    def computed(self, layout: TokenLayout) -> list[bool]:
        """Of each chunk, whether the blocks computed all of its rows."""
        plan, spans = self.plan, layout.chunk_rows()
        rows = plan.parts[0].plan.chunks
        whole = plan.kind == DENSE
        return [whole or n == s.stop - s.start for n, s in zip(rows, spans, strict=True)]

    @property
    def slope(self) -> Tensor | None:
        """Change of the residual per unit of sigma, `(B, L, C)`, where it is kept."""
        return None if self._state is None else self._state.slope

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
        self._copies |= any(key in patches for key in keys)
        for index, (run, i) in enumerate(self._blocks):
            patches[(run.hook, i)] = self._patch(index, run, slot, patches.get((run.hook, i)))
            slot += len(run.keys)
        replaced["dit"] = patches
        return {
            **options,
            "patches_replace": replaced,
            "optimized_attention_override": attention_hook(),
        }

    def _patch(
        self, index: int, run: BlockRun, slot: int, previous: BlockPatch | None
    ) -> BlockPatch:
        def patch(args: dict[str, Any], extra: dict[str, BlockFunction]) -> dict[str, Any]:
            original = extra["original_block"]

            def counted(call: dict[str, Any]) -> dict[str, Any]:
                self.block_calls += 1
                # what a block has written into its input cannot be run again; the whole call can
                branches = None if run.writes_input else self._state
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
            if self._gather is not None:
                self.failed = self.failed or str(error)
            raise

    @property
    def reached(self) -> bool:
        """Whether the first block has been reached."""
        return self._plan is not None

    @property
    def partial(self) -> bool:
        """Whether only some rows run."""
        return self._plan is not None and self._plan.kind == PARTIAL

    def _run_original(
        self, run: BlockRun, slot: int, original: BlockFunction, call: dict[str, Any]
    ) -> dict[str, Any]:
        sites = [StoredSite(slot + i, s, *s.around(call)) for i, s in enumerate(run.keys)]
        with ExitStack() as stack:
            stack.enter_context(self._attention.in_block(sites))
            if self._compiled is not None:
                stream = run.stream(call)
                stack.enter_context(in_a_run(stream.tokens.device))
                if self._gather is not None:
                    stack.enter_context(few_sizes(self._compiled, stream))
            return original(call)

    def _run_block(
        self, index: int, run: BlockRun, args: dict[str, Any], block: BlockFunction
    ) -> dict[str, Any]:
        if index == 0:
            args = self._begin(run, args)
        plan = self.plan
        if plan.kind == REUSE:
            return args
        if self._gather is not None:
            hand_over = run.enter if index == 0 else run.take
            args = retry_with_room(self._state, partial(hand_over, args, self._gather))
        entering = run.stream(args).tokens.shape
        out = block(args)
        made = run.tokens(out).shape
        if self._gather is not None and made != entering:
            raise CacheShapeError(f"block {index} made {tuple(made)} of {tuple(entering)}")
        if index == len(self._blocks) - 1:
            stream = replace(run.stream(args), tokens=run.tokens(out))
            out = self._finish(run, plan, stream, out)
        return out

    def _begin(self, run: BlockRun, args: dict[str, Any]) -> dict[str, Any]:
        # patch embeddings hand over a transposed view
        args = run.with_tokens(args, run.stream(args).tokens.contiguous())
        stream = run.stream(args)
        around = sum(run.keys[0].around(args)) if run.keys else 0
        plan, state = self._plan, self._state = self._planner(stream, around)
        video = stream.video.contiguous()
        if plan.kind == REUSE:
            self.output = retry_with_room(
                state, lambda: residuals.reuse(self._ops, plan.updates, state, video)
            )
            return run.with_tokens(args, stream.with_video(self.output))
        self._input = video.clone() if self._copies else video
        if plan.rows is not None:
            self._gather = RowGather(self._ops, plan.rows, self._tokens, plan.frames)
        self._attention.begin(plan, state.kv, self._gather)
        return args

    def _finish(
        self, run: BlockRun, plan: CallPlan, stream: BlockStream, out: dict[str, Any]
    ) -> dict[str, Any]:
        x, state = self._input, self._state
        if x is None or state is None:
            raise CacheShapeError("the last block ran before the first")
        y = stream.video
        if plan.kind == DENSE:
            retry_with_room(state, lambda: residuals.store(self._ops, plan.updates, state, x, y))
            state.filled = True
            self.output = y
            if state.kv is not None and self.block_calls and not self._attention.attended:
                plan.note = plan.note or BYPASSED
            self._input = None
            return out
        # from residuals that are not updated yet
        answers = retry_with_room(
            state, lambda: residuals.answers(self._ops, plan.updates, state, x, y)
        )
        self.output = retry_with_room(
            state, lambda: residuals.scatter(self._ops, plan.updates, state, x, answers)
        )
        state.filled, self._input = True, None
        return run.with_tokens(out, stream.with_video(self.output))
