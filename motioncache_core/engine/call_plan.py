"""What a decision means for one model call: which rows run, and which keys they attend to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cache.branches import BranchRows
from ..cache.correction import Correction
from ..cache.kv_blocks.forecast import Step, Steps
from ..common.protocols import TokenOps
from ..common.reasons import because
from ..common.token_layout import TokenLayout
from ..policy.chunk_decision import DENSE, PARTIAL, REUSE, Decision
from ..sampling.schedule import ACTIVE, CLEAN, DONE, Iteration
from .block_causal import CausalPlan, Compression, Segment


@dataclass(slots=True)
class ScopePlan:
    """The decision of one evaluation.

    Attributes:
        chunks: rows to compute in each chunk.
        rows: active rows `(n,)` int32 ascending; None unless partial.
        inverse: slot of each row or -1, `(1, L)` int32; None unless partial.
        gain, inverse_interval: forecast factors `(L,)` fp32, None without a forecast.
        kv_gain, kv_inverse_interval: the factors for keys and values, which are not corrected. The
            gain is 0 in finished chunks, which are computed once more at the level at which they
            stay.
        correction: of the forecast of tokens that are not computed; None without one.
        whole: whether every chunk is computed as a whole or not at all.
    """

    kind: str
    chunks: tuple[int, ...]
    rows: Tensor | None = None
    inverse: Tensor | None = None
    gain: Tensor | None = None
    inverse_interval: Tensor | None = None
    kv_gain: Tensor | None = None
    kv_inverse_interval: Tensor | None = None
    correction: Correction | None = None
    whole: bool = False

    @property
    def active(self) -> int:
        """Rows to compute."""
        return sum(self.chunks)

    def without_slope(self, gain: Tensor | None) -> ScopePlan:
        """This plan for rows whose forecast slope is not to be learned from this evaluation."""
        return replace(
            self,
            gain=gain,
            inverse_interval=None if gain is None else torch.zeros_like(gain),
            kv_gain=None,
            kv_inverse_interval=None,
            correction=None,
        )


def scope_plan(
    layout: TokenLayout, decisions: Sequence[Decision], ops: TokenOps, device: torch.device
) -> ScopePlan:
    """The chunks' decisions as one row list."""
    kinds = {d.kind for d in decisions}
    active = tuple(d.active for d in decisions)
    if kinds == {DENSE} or kinds == {REUSE}:
        return ScopePlan(kinds.pop(), active, whole=True)
    mask = torch.zeros(layout.tokens, dtype=torch.uint8, device=device)
    for rows, decision in zip(layout.chunk_rows(), decisions, strict=True):
        if decision.kind == DENSE:
            mask[rows] = 1
        elif decision.due is not None:
            mask[rows] = decision.due
    rows_, inverse, _ = ops.compact_rows(mask)
    return ScopePlan(
        PARTIAL, active, rows_[: sum(active)], inverse[None], whole=PARTIAL not in kinds
    )


@dataclass(slots=True)
class Part:
    """Batch rows of a call that follow one plan."""

    rows: slice
    plan: ScopePlan


@dataclass(slots=True)
class CallPlan:
    """What one call does.

    Attributes:
        kind: "dense", "partial" or "reuse".
        parts: batch rows with their own decision each.
        rows: active rows `(1 or B, n)` int32, padded with -1; None unless partial.
        computed: n, the rows that run through the blocks; all or none for the other kinds.
        note: why this is more than what was decided, where it is.
        causal: block-causal attention; None where every row attends to all.
        pairs: query-key pairs of a block's self-attention, of the batch row that has most.
        frames: ranges of active latent frames, where only whole frames run; they save a row list
            for whatever is the same for all tokens of a frame.
        steps: of the forecast of keys and values; None where they are not forecast.
    """

    kind: str
    parts: Sequence[Part]
    rows: Tensor | None
    computed: int
    note: str = ""
    causal: CausalPlan | None = None
    pairs: int = 0
    frames: tuple[slice, ...] | None = None
    steps: Steps | None = None


def call_plan(parts: list[Part], state: BranchRows, x: Tensor) -> CallPlan:
    """Every row attends to all rows; what is not stored yet makes the call dense."""
    kinds = {p.plan.kind for p in parts}
    tokens = x.shape[1]
    note: str = ""
    if kinds != {DENSE} and not state.filled:
        note = because("new_branch")
    elif kinds not in ({DENSE}, {REUSE}) and (state.kv is None or not state.kv.complete):
        note = because("kv_incomplete")
    if note or kinds == {DENSE}:
        if state.kv is not None:
            state.kv.begin_dense()
        return CallPlan(DENSE, parts, None, tokens, note, pairs=tokens * tokens)
    if kinds == {REUSE}:
        return CallPlan(REUSE, parts, None, 0)
    rows = active_rows(parts, tokens, x.device)
    n = rows.shape[1]
    return CallPlan(PARTIAL, parts, rows, n, pairs=n * tokens)


def causal_call_plan(
    parts: list[Part],
    layout: TokenLayout,
    x: Tensor,
    *,
    compression: Compression | None,
    shift: int,
    note: str,
) -> CallPlan:
    """Every chunk attends to itself and to the chunks before it.

    Args:
        shift: rows that the store of keys has more than the clip; fewer, once compressed, is
            below 0.
    """
    if {p.plan.kind for p in parts} == {REUSE}:
        return CallPlan(REUSE, parts, None, 0)
    segments, end = [], 0
    for part in parts:
        at = 0
        for span, n in zip(layout.chunk_rows(), part.plan.chunks, strict=True):
            if n:
                segments.append(Segment(part.rows, slice(at, at + n), span.stop))
                at, end = at + n, max(end, span.stop)
    rows = active_rows(parts, x.shape[1], x.device)
    causal = CausalPlan(tuple(segments), end, compression)
    frames = None
    if len(parts) == 1 and parts[0].plan.whole:
        frames = active_frames(layout, parts[0].plan.chunks)
    return CallPlan(PARTIAL, parts, rows, rows.shape[1], note, causal, causal.pairs(shift), frames)


def as_computed(layout: TokenLayout, iteration: Iteration, *absent: str) -> list[Decision]:
    """Every chunk computed as a whole, but for those in these roles, which are left out."""
    return [
        Decision(REUSE, step.role, 0)
        if step.role in absent
        else Decision(DENSE, step.role, frames * layout.spatial)
        for step, frames in zip(iteration.steps, layout.chunks, strict=True)
    ]


def compression(
    parts: Sequence[Part], layout: TokenLayout, iteration: Iteration, keep: int, heads: int
) -> Compression:
    """What to keep of the chunks that are finished in this iteration.

    They are weighed by the queries of one latent frame of the newest chunk that is computed,
    FlowCache's granularity "frame".
    """
    rows, queries = 0, None
    spans = layout.chunk_rows()
    for i, (span, step) in enumerate(zip(spans, iteration.steps, strict=True)):
        if step.role in (CLEAN, DONE):
            rows = span.stop
        ends = {sum(p.plan.chunks[: i + 1]) for p in parts}
        sizes = {p.plan.chunks[i] for p in parts}
        if step.role == ACTIVE and len(ends) == 1 and 0 not in sizes:
            end = ends.pop()
            queries = slice(end - min(layout.spatial, *sizes), end)
    return Compression(rows, keep, heads, queries)


def active_frames(layout: TokenLayout, chunks: Sequence[int]) -> tuple[slice, ...]:
    """Frame ranges of the chunks that are computed; neighbours are one range."""
    ranges: list[slice] = []
    for span, n in zip(layout.chunk_frames(), chunks, strict=True):
        if n and ranges and ranges[-1].stop == span.start:
            ranges[-1] = slice(ranges[-1].start, span.stop)
        elif n:
            ranges.append(span)
    return tuple(ranges)


def active_rows(parts: Sequence[Part], tokens: int, device: torch.device) -> Tensor:
    """Row lists of all parts as one matrix `(1 or B, n)` int32, padded with -1."""
    lists = []
    for part in parts:
        if part.plan.rows is not None:
            lists.append(part.plan.rows)
        else:
            size = tokens if part.plan.kind == DENSE else 0
            lists.append(torch.arange(size, dtype=torch.int32, device=device))
    if len(lists) == 1:
        return lists[0][None]
    out = torch.full(
        (parts[-1].rows.stop, max(len(r) for r in lists)), -1, dtype=torch.int32, device=device
    )
    for part, rows in zip(parts, lists, strict=True):
        out[part.rows, : len(rows)] = rows
    return out


def inverse_rows(part: Part, tokens: int, device: torch.device) -> Tensor:
    """Slot of each row in the part's list, or -1, `(1, L)` int32."""
    if part.plan.inverse is not None:
        return part.plan.inverse
    if part.plan.kind == DENSE:
        return torch.arange(tokens, dtype=torch.int32, device=device)[None]
    return torch.full((1, tokens), -1, dtype=torch.int32, device=device)


def kv_steps(plan: CallPlan, tokens: int, device: torch.device) -> Steps | None:
    """What the forecast of keys and values needs to know of a call, where it is on."""
    steps = []
    for p in plan.parts:
        gain, rate = p.plan.kv_gain, p.plan.kv_inverse_interval
        if gain is None or rate is None:
            return None
        steps.append(Step(p.rows, inverse_rows(p, tokens, device), gain, rate))
    return Steps(steps)
