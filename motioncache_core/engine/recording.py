"""What a call did, in numbers, beside what it would have done without reuse."""

from __future__ import annotations

from ..common.token_layout import TokenLayout
from ..policy.chunk_decision import DENSE
from ..report.trace import CallRecord
from ..sampling.model_call import ModelCall
from ..sampling.schedule import DONE, UNSTARTED
from .call_plan import CallPlan, as_computed


def call_record(call: ModelCall, plan: CallPlan, layout: TokenLayout, blocks: int) -> CallRecord:
    """The record of one call, without its time.

    Args:
        blocks: how often an original block was called.
    """
    tokens = layout.tokens
    needed, pairs, kind = tokens, tokens * tokens, plan.kind
    if call.forcing is not None and call.causal:
        wanted = as_computed(layout, call.forcing.iteration, UNSTARTED, DONE)
        spans = layout.chunk_rows()
        needed = sum(d.active for d in wanted)
        pairs = sum(d.active * r.stop for d, r in zip(wanted, spans, strict=True))
        kind = DENSE if plan.computed >= needed else kind
    return CallRecord(
        kind,
        len(call.branches),
        call.x.shape[0],
        plan.computed,
        blocks,
        note=plan.note,
        needed=needed,
        pairs=plan.pairs,
        needed_pairs=pairs,
        window=tokens,
    )
