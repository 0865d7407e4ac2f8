"""One call of the network: the three hooks that make it dense, partial or reused.

The model's own blocks run. A partial call gathers the active rows before the first block, hands
every block the matching rotary and modulation rows, lets the self-attention see the stored keys
and values of all rows, and scatters the result back after the last block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from . import residuals
from .causal import block_causal
from .errors import CacheShapeError
from .ops import TokenOps
from .plan import CallPlan
from .policy import DENSE, REUSE
from .state import BranchRows

Planner = Callable[[Tensor, Tensor], tuple[CallPlan, BranchRows]]
BlockFunction = Callable[[dict[str, Any]], dict[str, Any]]
BlockPatch = Callable[[dict[str, Any], dict[str, BlockFunction]], dict[str, Any]]


class Evaluation:
    """The hooks of one call. Made for the call and dropped after it.

    Args:
        planner: decides when the first block is reached, from its tokens `(B, L, C)` and the
            timestep modulation.
        tokens: L.
        self_attention: which attention call of a block is the self-attention, from 1.
    """

    def __init__(
        self, planner: Planner, ops: TokenOps, tokens: int, blocks: int, self_attention: int
    ) -> None:
        self._planner, self._ops, self._tokens = planner, ops, tokens
        self._last = blocks - 1
        self._self_attention = self_attention
        self._plan: CallPlan | None = None
        self._state: BranchRows | None = None
        self._input: Tensor | None = None
        self._gathered: dict[int, tuple[Tensor, Tensor]] = {}
        self._block = 0
        self._attention_calls = 0
        self._previous_attention: Callable[..., Tensor] | None = None
        self.output: Tensor | None = None
        self.block_calls = 0

    @property
    def plan(self) -> CallPlan:
        """The plan; made when the first block is reached."""
        if self._plan is None:
            raise CacheShapeError("no block was reached: the model did not call its block hooks")
        return self._plan

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
            "optimized_attention_override": self._attention,
        }

    def _patch(self, index: int, previous: BlockPatch | None) -> BlockPatch:
        def patch(args: dict[str, Any], extra: dict[str, BlockFunction]) -> dict[str, Any]:
            original = extra["original_block"]

            def counted(call: dict[str, Any]) -> dict[str, Any]:
                self._block, self._attention_calls = index, 0
                self.block_calls += 1
                return original(call)

            def run(call: dict[str, Any]) -> dict[str, Any]:
                if previous is None:
                    return counted(call)
                return previous(call, {**extra, "original_block": counted})

            return self._run_block(index, args, run)

        return patch

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
            gathered = self._gather(x, plan.rows) if index == 0 else x
            args = {**args, "img": gathered, **self._gather_sides(args, plan)}
        out = run(args)
        if index == self._last:
            out = {**out, "img": self._finish(plan, out["img"])}
        return out

    def _finish(self, plan: CallPlan, y: Tensor) -> Tensor:
        if self._input is None or self._state is None:
            raise CacheShapeError("the last block ran before the first")
        if plan.kind == DENSE:
            residuals.store(plan, self._state, self._input, y)
            self.output = y
        else:
            self.output = residuals.scatter(self._ops, plan, self._state, self._input, y)
        self._input = None
        return self.output

    def _gather(self, x: Tensor, rows: Tensor, divisor: int = 1) -> Tensor:
        flat = x.reshape(*x.shape[:2], -1).contiguous()
        out = self._ops.gather_rows(flat, rows, divisor=divisor)
        return out.reshape(*out.shape[:2], *x.shape[2:])

    def _gather_sides(self, args: dict[str, Any], plan: CallPlan) -> dict[str, Tensor]:
        """The active rows of the rotary table and of the timestep modulation."""
        pe, vec, rows = args["pe"], args["vec"], plan.rows
        if rows is None:
            return {}
        sides = {"pe": self._once(pe, rows, 1)}
        steps = vec.shape[1]
        if vec.ndim == 4 and steps > 1:
            if plan.frames is not None:
                sides["vec"] = self._once(vec, plan.frames, 0)
            else:
                sides["vec"] = self._once(vec, rows, self._tokens // steps)
        return sides

    def _once(self, x: Tensor, rows: Tensor, divisor: int) -> Tensor:
        # every block gets the same tensor, so one gather serves them all
        kept = self._gathered.get(id(x))
        if kept is None or kept[0] is not x:
            kept = (x, x[:, rows] if divisor == 0 else self._gather(x, rows, divisor))
            self._gathered[id(x)] = kept
        return kept[1]

    def _attention(self, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
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
        if plan.rows is None:
            kv.put(self._block, k, v)
            return self._host_attention(func, q, k, v, *args[3:], **kwargs)
        if kwargs.get("mask") is not None:
            raise CacheShapeError("a partial evaluation cannot use an attention mask")
        attend = partial(self._host_attention, func)
        if plan.causal is not None:
            return block_causal(
                plan.causal, plan.rows, kv, self._block, (q, k, v), self._ops,
                lambda *qkv: attend(*qkv, *args[3:], **kwargs),
            )  # fmt: skip
        kv.grow(self._block, k, self._tokens)
        k, v = kv.scatter(self._block, k, v, plan.rows, self._ops)
        return attend(q, k, v, *args[3:], **kwargs)

    def _host_attention(self, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        if self._previous_attention is not None:
            return self._previous_attention(func, *args, **kwargs)
        return func(*args, **kwargs)


def modulation_row(vec: Tensor, row: int = 0) -> Tensor:
    """The modulation `(T, 6, C)` of one batch row of `(B, T, 6, C)` or `(B, 6, C)`."""
    return vec[row] if vec.ndim == 4 else vec[row : row + 1]
