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

import torch
from torch import Tensor, nn

from ..cache import residuals
from ..cache.branches import BranchRows
from ..common.decision_kinds import DENSE, PARTIAL, REUSE
from ..common.errors import CacheShapeError
from ..common.protocols import TokenOps
from ..common.token_layout import TokenLayout
from ..models.adapter import Adapter, Around, ModelFacts
from ..models.block_stream import (
    GRID,
    ROWS_AROUND,
    BlockRun,
    BlockStream,
    RowGather,
    SideBlocks,
)
from .attention import BYPASSED, BlockAttention, Caller, StoredSite, attention_hook
from .call_plan import CallPlan
from .compiled_blocks import few_sizes, in_a_run
from .retry_with_room import retry_with_room
from .shadow import beside, hidden

NOT_HOOKED = "no block was reached: the model did not call its block hooks"

# decides when the first block is reached, from what enters it and the rows around the video's in
# the keys of its attention
Planner = Callable[[BlockStream, int], tuple[CallPlan, BranchRows]]
BlockFunction = Callable[[dict[str, Any]], dict[str, Any]]
BlockPatch = Callable[[dict[str, Any], dict[str, BlockFunction]], dict[str, Any]]


class BlockHooks:
    """The hooks of one call. Made for the call and dropped after it.

    Args:
        layout: of the video rows.
        network: has the blocks.
        around: what stands around the video rows.
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
        layout: TokenLayout,
        adapter: Adapter,
        facts: ModelFacts,
        network: object = None,
        around: Around | None = None,
        compiled: nn.Module | None = None,
        callers: dict[int, Caller] | None = None,
    ) -> None:
        self._planner, self._ops, self._layout = planner, ops, layout
        self._blocks, self._compiled = adapter.blocks(facts), compiled
        self._network, self._known, self._side = network, around or Around(), adapter.side
        self._copies = any(run.writes_input for run, _ in self._blocks)
        self._callers = callers
        self._attention = BlockAttention(None, copies=False)
        # for blocks that the host does not let us replace
        self._hidden: dict[tuple[str, int], BlockPatch] = {}
        self._plan: CallPlan | None = None
        self._state: BranchRows | None = None
        self._input: Tensor | None = None
        # what enters the first block besides the video
        self._beside: list[Tensor] = []
        self._around = (0, 0)
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
    def rows_around(self) -> int:
        """Rows around the video's in the keys of the first attention."""
        return 0 if self._state is None else self._state.around

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
                        hidden(self._network, run, self._hidden, lambda: self._gather)
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
        gather = self._gather
        if self.plan.kind == REUSE:
            return side.skip(*args, **kwargs)
        if gather is not None:
            taken = partial(side.take, index, args, kwargs, gather)
            args, kwargs = retry_with_room(self._state, taken)

        def run() -> Any:
            with self._attention.in_block([StoredSite(slot, side.site, 0, 0)]):
                return block(*args, **kwargs)

        out = retry_with_room(self._state, run)
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
        gather = self._gather
        told = {}
        if gather is not None:
            told = {q.call: partial(q.attend, gather, call) for q in run.queries}
        with ExitStack() as stack:
            stack.enter_context(self._attention.in_block(sites, told))
            if self._compiled is not None:
                stream = run.stream(call)
                stack.enter_context(in_a_run(stream.tokens.device))
                if self._gather is not None:
                    stack.enter_context(few_sizes(self._compiled, stream))
            return original(call)

    def _run_block(
        self, index: int, run: BlockRun, args: dict[str, Any], block: BlockFunction
    ) -> dict[str, Any]:
        first, last = index == 0, index == len(self._blocks) - 1
        if first:
            args = self._begin(run, args)
        plan, gather = self.plan, self._gather
        if plan.kind == REUSE:
            if run.shadow is not None:
                run.shadow.skip(args)
            # what the host adds between blocks has no place in the answer
            told = last if run.full_length else first
            return self._with_output(run, args) if told else args
        whole = run.stream(args)
        if gather is not None:
            hand_over = run.enter if first or run.full_length else run.take
            args = retry_with_room(self._state, partial(hand_over, args, gather))
        entering = run.stream(args).tokens.shape
        out = block(args)
        tokens = run.tokens(out)
        if gather is not None and tokens.shape != entering:
            raise CacheShapeError(f"block {index} made {tuple(tokens.shape)} of {tuple(entering)}")
        if last:
            if gather is not None:
                padding = gather.padding(whole.before, whole.behind)
                tokens = tokens[:, : tokens.shape[1] - padding]
            return self._finish(run, plan, replace(run.stream(args), tokens=tokens), out)
        if gather is not None and run.full_length:
            around = whole.before, whole.behind
            spread = partial(gather.spread, whole.tokens, tokens, *around)
            return run.with_tokens(out, retry_with_room(self._state, spread))
        return out

    def _with_output(self, run: BlockRun, args: dict[str, Any]) -> dict[str, Any]:
        if self.output is None or self._state is None:
            raise CacheShapeError("the last block ran before the first")
        args = self._reused(run, args, self._state)
        return run.with_tokens(args, run.stream(args).with_video(self.output))

    def _begin(self, run: BlockRun, args: dict[str, Any]) -> dict[str, Any]:
        self._mark(run, args)
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
            return args
        self._input = video.clone() if self._copies else video
        self._around = stream.before, stream.behind
        # few rows, and of tensors that blocks may write into
        self._beside = [t.clone() for t in self._others(run, stream, args)]
        if plan.rows is not None:
            multiple = run.multiple(stream.tokens.shape[1], self._layout)
            rows, tokens = plan.rows, self._layout.tokens
            self._gather = RowGather(self._ops, rows, tokens, plan.frames, multiple)
        self._attention.begin(plan, state.kv, self._gather)
        return args

    def _mark(self, run: BlockRun, args: dict[str, Any]) -> None:
        """Leave what is around the video where all blocks of the call find it."""
        if self._known == Around():
            return
        before, behind = self._known.before, self._known.behind
        if behind is None:
            behind = max(0, run.stream(args).tokens.shape[1] - before - self._layout.tokens)
        args["transformer_options"][ROWS_AROUND] = before, behind

    def _others(self, run: BlockRun, stream: BlockStream, args: dict[str, Any]) -> list[Tensor]:
        """What goes through the blocks besides the video."""
        around = stream.others(*self._around)
        sound = None if run.beside is None else run.beside(args)
        return [tokens for tokens in (around, sound) if tokens is not None]

    def _reused(self, run: BlockRun, args: dict[str, Any], state: BranchRows) -> dict[str, Any]:
        """All besides the video with what the blocks last added to it."""
        stream = run.stream(args)
        self._around = stream.before, stream.behind
        now = self._others(run, stream, args)
        if not state.beside:
            return args
        added = [x + r for x, r in zip(now, state.beside, strict=True)]
        if run.with_beside is not None:
            args = run.with_beside(args, added.pop())
        if added:
            first, last = added[0].split(self._around, dim=1)
            args = run.with_tokens(args, torch.cat((first, stream.video, last), dim=1))
        return args

    def _finish(
        self, run: BlockRun, plan: CallPlan, stream: BlockStream, out: dict[str, Any]
    ) -> dict[str, Any]:
        x, state = self._input, self._state
        if x is None or state is None:
            raise CacheShapeError("the last block ran before the first")
        # rows behind others are no tensor of their own
        y = stream.video.contiguous()
        now = self._others(run, stream, out)
        state.beside = [y - x for x, y in zip(self._beside, now, strict=True)]
        self._beside = []
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
