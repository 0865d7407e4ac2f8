"""The rows of one call: all of them go through the blocks, some, or none.

A partial call gathers the active rows before the first block, hands every block the matching
rotary and modulation rows, and scatters the result back after the last block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from ..cache import residuals
from ..cache.branches import BranchRows
from ..cache.kv_store import KVStore
from ..common.decision_kinds import DENSE, PARTIAL, REUSE
from ..common.errors import CacheShapeError
from ..common.protocols import TokenOps
from ..common.token_layout import TokenLayout
from ..models.adapter import Around
from ..models.block_stream import BlockRun, BlockStream, RowGather
from .beside import Beside
from .call_plan import CallPlan
from .retry_with_room import retry_with_room
from .shadow import BlockFunction

NOT_HOOKED = "no block was reached: the model did not call its block hooks"

# decides when the first block is reached, from what enters it and the rows around the video's in
# the keys of its attention
Planner = Callable[[BlockStream, int], tuple[CallPlan, BranchRows]]


class CallRows:
    """What the blocks of one call are given, and what is made of their answers.

    Args:
        layout: of the video rows.
        around: what stands around the video rows.
        blocks: how many blocks the call has.

    Attributes:
        copies: whether a block may write into the tokens that it is given.
        state: what is stored of the call's branches, from the first block on.
        gather: the active rows, once they are known; None where all run, or none.
        output: video rows behind the last block, `(B, L, C)`.
    """

    def __init__(
        self, planner: Planner, ops: TokenOps, layout: TokenLayout, around: Around, blocks: int
    ) -> None:
        self._planner, self._ops, self._layout = planner, ops, layout
        self._beside = Beside(around, layout.tokens)
        self._last = blocks - 1
        self._plan: CallPlan | None = None
        self._input: Tensor | None = None
        self.copies = False
        self.state: BranchRows | None = None
        self.gather: RowGather | None = None
        self.output: Tensor | None = None

    @property
    def reached(self) -> bool:
        """Whether the first block has been reached."""
        return self._plan is not None

    @property
    def plan(self) -> CallPlan:
        """The plan; made when the first block is reached."""
        if self._plan is None:
            raise CacheShapeError(NOT_HOOKED)
        return self._plan

    @property
    def partial(self) -> bool:
        """Whether only some rows run."""
        return self._plan is not None and self._plan.kind == PARTIAL

    @property
    def kv(self) -> KVStore | None:
        """Where keys and values are kept, if they are."""
        return None if self.state is None else self.state.kv

    @property
    def around(self) -> int:
        """Rows around the video's in the keys of the first attention."""
        return 0 if self.state is None else self.state.around

    @property
    def slope(self) -> Tensor | None:
        """Change of the residual per unit of sigma, `(B, L, C)`, where it is kept."""
        return None if self.state is None else self.state.slope

    def computed(self, layout: TokenLayout) -> list[bool]:
        """Of each chunk, whether the blocks computed all of its rows."""
        plan, spans = self.plan, layout.chunk_rows()
        rows = plan.parts[0].plan.chunks
        whole = plan.kind == DENSE
        return [whole or n == s.stop - s.start for n, s in zip(rows, spans, strict=True)]

    def begin(self, run: BlockRun, args: dict[str, Any]) -> dict[str, Any]:
        """The first block is reached: the call is planned. Returns the block's arguments, with
        contiguous tokens unless all of them are computed."""
        self._beside.mark(run, args)
        # patch embeddings hand over a transposed view
        given, args = args, run.with_tokens(args, run.stream(args).tokens.contiguous())
        stream = run.stream(args)
        around = sum(run.keys[0].around(args)) if run.keys else 0
        plan, state = self._plan, self.state = self._planner(stream, around)
        video = stream.video.contiguous()
        if plan.kind == REUSE:
            self.output = retry_with_room(
                state, lambda: residuals.reuse(self._ops, plan.updates, state, video)
            )
            return args
        self._input = video.clone() if self.copies else video
        self._beside.enter(run, stream, args)
        if plan.rows is not None:
            multiple = run.multiple(stream.tokens.shape[1], self._layout)
            rows, tokens = plan.rows, self._layout.tokens
            self.gather = RowGather(self._ops, rows, tokens, plan.frames, multiple)
        # products of a view can differ in the last place from those of its copy
        return given if plan.kind == DENSE else args

    def run(
        self, index: int, run: BlockRun, args: dict[str, Any], block: BlockFunction
    ) -> dict[str, Any]:
        """What the host is given for a block, which runs unless all rows are reused.

        Args:
            index: the block's number in the call.
            args: what the host calls it with.

        Raises:
            CacheShapeError: the block has changed the number of rows.
        """
        first, last = index == 0, index == self._last
        plan, gather = self.plan, self.gather
        if plan.kind == REUSE:
            if run.shadow is not None:
                run.shadow.skip(args)
            # what the host adds between blocks has no place in the answer
            told = last if run.full_length else first
            return self._with_output(run, args) if told else args
        whole = run.stream(args)
        if gather is not None:
            hand_over = run.enter if first or run.full_length else run.take
            args = retry_with_room(self.state, partial(hand_over, args, gather))
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
            return run.with_tokens(out, retry_with_room(self.state, spread))
        return out

    def _with_output(self, run: BlockRun, args: dict[str, Any]) -> dict[str, Any]:
        if self.output is None or self.state is None:
            raise CacheShapeError("the last block ran before the first")
        args = self._beside.reused(run, args, self.state)
        return run.with_tokens(args, run.stream(args).with_video(self.output))

    def _finish(
        self, run: BlockRun, plan: CallPlan, stream: BlockStream, out: dict[str, Any]
    ) -> dict[str, Any]:
        x, state = self._input, self.state
        if x is None or state is None:
            raise CacheShapeError("the last block ran before the first")
        # rows behind others are no tensor of their own
        y = stream.video.contiguous()
        self._beside.leave(run, stream, out, state)
        if plan.kind == DENSE:
            retry_with_room(state, lambda: residuals.store(self._ops, plan.updates, state, x, y))
            state.filled = True
            self.output, self._input = y, None
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
