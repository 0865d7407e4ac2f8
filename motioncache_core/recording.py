"""What a call did, in numbers, beside what it would have done without reuse."""

from __future__ import annotations

from .call import ModelCall
from .layout import TokenLayout
from .plan import CallPlan, as_computed
from .policy import DENSE
from .sampling import DONE, UNSTARTED
from .trace import CallRecord


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
