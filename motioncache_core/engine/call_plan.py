"""What a decision means for one model call: which rows run, and which keys they attend to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cache.branches import BranchRows
from ..cache.row_update import RowUpdate, RowUpdates
from ..common.decision_kinds import DENSE, PARTIAL, REUSE
from ..common.reasons import Reason, because
from ..common.token_layout import TokenLayout
from ..policy.chunk_decision import Decision
from ..policy.evaluation_plan import EvaluationPlan
from ..report.trace import CallRecord
from ..sampling.model_call import ModelCall
from ..sampling.schedule import ACTIVE, CLEAN, DONE, UNSTARTED, Iteration
from .block_causal import CausalPlan, Compression, Segment


@dataclass(slots=True)
class Part:
    """Batch rows of a call that follow one plan."""

    rows: slice
    plan: EvaluationPlan


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
        updates: of the residuals, a part each.
        kv_updates: of keys and values; None where they are not forecast.
    """

    kind: str
    parts: Sequence[Part]
    rows: Tensor | None
    computed: int
    note: str = ""
    causal: CausalPlan | None = None
    pairs: int = 0
    frames: tuple[slice, ...] | None = None
    updates: Sequence[RowUpdate] = ()
    kv_updates: RowUpdates | None = None


def call_plan(
    parts: list[Part],
    state: BranchRows,
    x: Tensor,
    whole: Reason | None = None,
    answers_beside: bool = False,
    keys: bool = True,
) -> CallPlan:
    """Every row attends to all rows; what is not stored yet makes the call dense.

    Args:
        whole: why keys and values are not stored, where another node is in the way.
        answers_beside: see `Adapter`.
        keys: whether keys and values are ours to keep, and not the model's.
    """
    kinds = {p.plan.kind for p in parts}
    tokens = x.shape[1]
    length = tokens + state.around
    note: str = ""
    if kinds != {DENSE} and not state.filled:
        note = because("new_branch")
    elif (
        kinds not in ({DENSE}, {REUSE})
        and (keys or whole is not None)
        and not (state.kv and state.kv.complete)
    ):
        note = whole or because("kv_incomplete")
    if note or kinds == {DENSE}:
        if state.kv is not None:
            state.kv.begin_dense()
        return CallPlan(DENSE, parts, None, tokens, note, pairs=length * length)
    if kinds == {REUSE}:
        if not answers_beside or state.kv is None or not state.kv.complete:
            return CallPlan(REUSE, parts, None, 0)
        # a network may not run on no row at all
        parts = [Part(p.rows, _of_one_row(p.plan, tokens, x.device)) for p in parts]
    rows = active_rows(parts, tokens, x.device)
    n = rows.shape[1]
    return CallPlan(PARTIAL, parts, rows, n, pairs=(n + state.around) * length)


def _of_one_row(plan: EvaluationPlan, tokens: int, device: torch.device) -> EvaluationPlan:
    """This plan with the first row computed besides."""
    rows = torch.arange(tokens, dtype=torch.int32, device=device)
    return replace(plan, rows=rows[:1], inverse=torch.where(rows == 0, 0, -1).int()[None])


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


def row_updates(plan: CallPlan, tokens: int, device: torch.device) -> list[RowUpdate]:
    """What the call does to the residuals of its parts."""
    partial = plan.kind == PARTIAL
    return [
        RowUpdate(
            p.rows,
            inverse_rows(p, tokens, device) if partial else None,
            p.plan.gain,
            p.plan.inverse_interval,
            p.plan.rows,
            p.plan.correction,
        )
        for p in plan.parts
    ]


def kv_updates(plan: CallPlan, tokens: int, device: torch.device) -> RowUpdates | None:
    """What the forecast of keys and values needs to know of a call, where it is on."""
    updates = []
    for p in plan.parts:
        gain, rate = p.plan.kv_gain, p.plan.kv_inverse_interval
        if gain is None or rate is None:
            return None
        updates.append(RowUpdate(p.rows, inverse_rows(p, tokens, device), gain, rate))
    return RowUpdates(updates)


def call_record(
    call: ModelCall, plan: CallPlan, layout: TokenLayout, blocks: int, around: int = 0
) -> CallRecord:
    """The record of one call, without its time.

    Args:
        blocks: how often an original block was called.
        around: rows around the video's in its attention.
    """
    tokens = layout.tokens
    needed, pairs, kind = tokens, (tokens + around) ** 2, plan.kind
    if call.forcing is not None and call.causal:
        wanted = as_computed(layout, call.forcing.iteration, UNSTARTED, DONE)
        spans = layout.chunk_rows()
        needed = sum(d.active for d in wanted)
        pairs = sum(d.active * r.stop for d, r in zip(wanted, spans, strict=True))
        kind = DENSE if plan.computed >= needed else kind
    return CallRecord(
        kind,
        len(call.branches),
        call.rows,
        plan.computed,
        blocks,
        note=plan.note,
        needed=needed,
        pairs=plan.pairs,
        needed_pairs=pairs,
        window=tokens,
        around=around,
    )
