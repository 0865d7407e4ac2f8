"""One call of the network: the hooks that make it dense, partial or reused.

The model's own blocks run. A partial call gathers the active rows before the first block, hands
every block the matching rotary and modulation rows, lets the self-attention see the stored keys
and values of all rows, and scatters the result back after the last block.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from ..cache import residuals
from ..cache.branches import BranchRows
from ..common.decision_kinds import DENSE, REUSE
from ..common.errors import CacheShapeError, UnsupportedModelError
from ..common.protocols import TokenOps
from ..common.reasons import because
from .block_causal import block_causal
from .call_plan import CallPlan
from .compiled_blocks import few_sizes, in_a_run

Planner = Callable[[Tensor, Tensor], tuple[CallPlan, BranchRows]]
BlockFunction = Callable[[dict[str, Any]], dict[str, Any]]
BlockPatch = Callable[[dict[str, Any], dict[str, BlockFunction]], dict[str, Any]]

BYPASSED = because("attention_bypassed")


class BlockHooks:
    """The hooks of one call. Made for the call and dropped after it.

    Args:
        planner: decides when the first block is reached, from its tokens `(B, L, C)` and the
            timestep modulation.
        tokens: L.
        self_attention: which attention call of a block is the self-attention, from 1.
        compiled: see `find_compiled`.
    """

    def __init__(
        self,
        planner: Planner,
        ops: TokenOps,
        tokens: int,
        blocks: int,
        self_attention: int,
        compiled: nn.Module | None = None,
    ) -> None:
        self._planner, self._ops, self._tokens = planner, ops, tokens
        self._last = blocks - 1
        self._self_attention, self._compiled = self_attention, compiled
        self._plan: CallPlan | None = None
        self._state: BranchRows | None = None
        self._input: Tensor | None = None
        self._gathered: dict[int, tuple[Tensor, Tensor]] = {}
        self._block = 0
        self._attention_calls = 0
        self._attended = False
        self._previous_attention: Callable[..., Tensor] | None = None
        self.output: Tensor | None = None
        self.block_calls = 0

    @property
    def plan(self) -> CallPlan:
        """The plan; made when the first block is reached."""
        if self._plan is None:
            raise CacheShapeError("no block was reached: the model did not call its block hooks")
        return self._plan

    @property
    def slope(self) -> Tensor | None:
        """Change of the residual per unit of sigma, `(B, L, C)`, where it is kept."""
        return None if self._state is None else self._state.slope

    def options(self, options: Mapping[str, Any], block_type: str) -> dict[str, Any]:
        """A copy of the host's options with our hooks in front of the ones already there."""
        self._previous_attention = options.get("optimized_attention_override")
        replace = dict(options.get("patches_replace", {}))
        blocks = dict(replace.get("dit", {}))
        for i in range(self._last + 1):
            blocks[(block_type, i)] = self._patch(i, blocks.get((block_type, i)))
        replace["dit"] = blocks
        return {
            **options,
            "patches_replace": replace,
            "optimized_attention_override": _attention_hook(),
        }

    def _patch(self, index: int, previous: BlockPatch | None) -> BlockPatch:
        def patch(args: dict[str, Any], extra: dict[str, BlockFunction]) -> dict[str, Any]:
            original = extra["original_block"]

            def counted(call: dict[str, Any]) -> dict[str, Any]:
                self.block_calls += 1
                out = self._run_original(index, original, call)
                self._check_attended()
                return out

            def run(call: dict[str, Any]) -> dict[str, Any]:
                if previous is None:
                    return counted(call)
                return previous(call, {**extra, "original_block": counted})

            return self._run_block(index, args, run)

        return patch

    @contextmanager
    def _running(self, call: dict[str, Any]) -> Iterator[None]:
        token = _RUNNING.set(self)
        try:
            with ExitStack() as stack:
                if self._compiled is not None:
                    stack.enter_context(in_a_run(call["img"].device))
                    if self.plan.rows is not None:
                        stack.enter_context(few_sizes(self._compiled, call["img"], call["vec"]))
                yield
        finally:
            _RUNNING.reset(token)

    def _run_original(
        self, index: int, original: BlockFunction, call: dict[str, Any]
    ) -> dict[str, Any]:
        """The model's own block; where it runs out of memory, once more after what is stored has
        given some."""

        def work() -> dict[str, Any]:
            self._block, self._attention_calls = index, 0
            with self._running(call):
                return original(call)

        return work() if self._state is None else self._state.with_room(work)

    def _check_attended(self) -> None:
        """A block that attends to its active rows alone gives a wrong answer."""
        attended = self._attention_calls >= self._self_attention
        self._attended |= attended
        if not attended and self.plan.rows is not None:
            raise UnsupportedModelError(f"block {self._block}: {BYPASSED}")

    def _run_block(self, index: int, args: dict[str, Any], run: BlockFunction) -> dict[str, Any]:
        x: Tensor = args["img"]
        if index == 0:
            # patch embeddings hand over a transposed view
            x = x.contiguous()
            args = {**args, "img": x}
            self._plan, self._state = self._planner(x, args["vec"])
            if self._plan.kind == REUSE:
                self.output = residuals.reuse(self._ops, self._plan, self._state, x)
                return {**args, "img": self.output}
            self._input = x
        plan = self.plan
        if plan.kind == REUSE:
            return args
        if plan.rows is not None:
            args = self._gathered_args(index, args, plan, plan.rows)
        out = run(args)
        if index == self._last:
            out = {**out, "img": self._finish(plan, out["img"])}
        return out

    def _finish(self, plan: CallPlan, y: Tensor) -> Tensor:
        if self._input is None or self._state is None:
            raise CacheShapeError("the last block ran before the first")
        if plan.kind == DENSE:
            residuals.store(self._ops, plan, self._state, self._input, y)
            self.output = y
            if self._state.kv is not None and self.block_calls and not self._attended:
                plan.note = plan.note or BYPASSED
        else:
            self.output = residuals.scatter(self._ops, plan, self._state, self._input, y)
        self._input = None
        return self.output

    def _gathered_args(
        self, index: int, args: dict[str, Any], plan: CallPlan, rows: Tensor
    ) -> dict[str, Any]:
        def work() -> dict[str, Any]:
            first = self._gather(args, plan, rows) if index == 0 else {}
            return {**args, **first, **self._gather_sides(args, plan, rows)}

        return work() if self._state is None else self._state.with_room(work)

    def _gather(self, args: dict[str, Any], plan: CallPlan, rows: Tensor) -> dict[str, Tensor]:
        """The active tokens; their rotary and modulation rows are gathered in the same pass."""
        x, pe, vec = args["img"], args["pe"], args["vec"]
        steps = _steps(vec)
        listed = steps > 1 and plan.frames is None
        out, rotary, modulation = self._ops.gather_rows(
            _flat(x), rows, _flat(pe), _flat(vec) if listed else None,
            divisor=self._tokens // steps,
        )  # fmt: skip
        for source, gathered in ((pe, rotary), (vec, modulation)):
            if gathered is not None:
                self._gathered[id(source)] = source, _like(gathered, source)
        return {"img": _like(out, x)}

    def _gather_sides(
        self, args: dict[str, Any], plan: CallPlan, rows: Tensor
    ) -> dict[str, Tensor]:
        """The active rows of the rotary table and of the timestep modulation."""
        pe, vec = args["pe"], args["vec"]
        sides = {"pe": self._once(pe, lambda: self._gather_alone(pe, rows))}
        steps = _steps(vec)
        if steps > 1 and plan.frames is not None:
            chosen = plan.frames
            sides["vec"] = self._once(vec, lambda: _frames(vec, chosen))
        elif steps > 1:
            per_row = self._tokens // steps
            # padding stays negative
            sides["vec"] = self._once(vec, lambda: self._gather_alone(vec, rows // per_row))
        return sides

    def _gather_alone(self, x: Tensor, rows: Tensor) -> Tensor:
        return _like(self._ops.gather_rows(_flat(x), rows)[0], x)

    def _once(self, x: Tensor, gather: Callable[[], Tensor]) -> Tensor:
        # every block gets the same tensor, so one gather serves them all
        kept = self._gathered.get(id(x))
        if kept is None or kept[0] is not x:
            kept = x, gather()
            self._gathered[id(x)] = kept
        return kept[1]

    def attention(self, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """One attention call of a block; the self-attention sees the keys and values of all rows.

        Args:
            func: the host's attention, called with the other arguments.
        """
        self._attention_calls += 1
        plan, state = self._plan, self._state
        kv = state.kv if state is not None else None
        ours = self._attention_calls == self._self_attention
        if not ours or plan is None or kv is None:
            return self._host_attention(func, *args, **kwargs)
        names = ("q", "k", "v")
        tensors = dict(zip(names, args, strict=False)) | {
            n: kwargs.pop(n) for n in names if n in kwargs
        }
        q, k, v = (tensors[n] for n in names)
        # CUDA graphs use their outputs' memory again in the next block
        kept = (k, v) if self._compiled is None else (k.clone(), v.clone())
        if plan.rows is None:
            kv.put(self._block, *kept, plan.steps)
            return self._host_attention(func, q, k, v, *args[3:], **kwargs)
        if kwargs.get("mask") is not None:
            raise CacheShapeError("a partial evaluation cannot use an attention mask")
        attend = partial(self._host_attention, func)
        if plan.causal is not None:
            return block_causal(
                plan.causal, plan.rows, kv, self._block, (q, *kept),
                lambda *qkv: attend(*qkv, *args[3:], **kwargs), plan.steps,
            )  # fmt: skip
        kv.grow(self._block, k, self._tokens)
        k, v = kv.update(self._block, *kept, plan.rows, self._tokens, plan.steps)
        return attend(q, k, v, *args[3:], **kwargs)

    def _host_attention(self, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        if self._previous_attention is not None:
            return self._previous_attention(func, *args, **kwargs)
        return func(*args, **kwargs)


_RUNNING: ContextVar[BlockHooks | None] = ContextVar("motioncache_evaluation", default=None)


def _attend(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    evaluation = _RUNNING.get()
    if evaluation is None:
        # compiled code can outlast the run that it was compiled in
        return func(*args, **kwargs)
    return evaluation.attention(func, *args, **kwargs)


@cache
def _untraced() -> Callable[..., Tensor]:
    hook: Callable[..., Tensor] = torch.compiler.disable(_attend)
    return hook


def _attention_hook() -> Callable[..., Tensor]:
    """The same function for all calls, so that compiled code stays valid, and never traced."""
    # importing the compiler takes a second, and without it nothing is compiled
    return _untraced() if "torch._dynamo" in sys.modules else _attend


def modulation_row(vec: Tensor, row: int = 0) -> Tensor:
    """The modulation `(T, 6, C)` of one batch row of `(B, T, 6, C)` or `(B, 6, C)`."""
    return vec[row] if vec.ndim == 4 else vec[row : row + 1]


def _steps(vec: Tensor) -> int:
    """Timesteps that the modulation tells apart in a batch row."""
    return vec.shape[1] if vec.ndim == 4 else 1


def _flat(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:2], -1).contiguous()


def _like(gathered: Tensor, source: Tensor) -> Tensor:
    return gathered.reshape(*gathered.shape[:2], *source.shape[2:])


def _frames(x: Tensor, frames: Sequence[slice]) -> Tensor:
    parts = [x[:, part] for part in frames]
    # contiguous whatever the number of ranges: strides of their own would compile blocks again
    return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts, 1)
