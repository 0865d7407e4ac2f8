"""Why a run reused nothing, or not more."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..common.decision_kinds import DENSE, PARTIAL, REUSE
from ..common.reasons import because, code_of
from ..sampling.schedule import CLEAN, DONE, UNSTARTED
from .compute_share import compute_share
from .trace import Trace


def explain(trace: Trace) -> str | None:
    """Why nothing was reused, and what to change; None if something was."""
    if trace.reason and compute_share(trace) == 1:
        return trace.reason
    if not trace.evaluations:
        return because("not_called")
    if any(c.kind in (PARTIAL, REUSE) for c in trace.calls()):
        return None
    phases = {c.phase for e in trace.evaluations for c in e.chunks}
    if phases <= {"warm-up", "last", "end", "restart", CLEAN, UNSTARTED, DONE}:
        return because("protected", evaluations=len(trace.evaluations))
    notes = [c.note for c in trace.calls() if c.note]
    if notes and any(e.kind != DENSE for e in trace.evaluations):
        return notes[0]
    budget = trace.settings.get("compute_budget")
    if budget:
        return because("budget_whole", budget=budget)
    largest = max((c.distance or 0.0 for e in trace.evaluations for c in e.chunks), default=0.0)
    threshold = trace.settings.get("reuse_threshold")
    return because("threshold_reached", largest=largest, threshold=threshold)


def reasons(trace: Trace) -> list[dict[str, Any]]:
    """Everything that kept the run from reusing (more), with the calls that it was told of.

    Each has a stable `code` from `common/reasons.py`, a `sentence`, and `calls`, which is 0 where
    it is not told of single calls.
    """
    said = Counter(c.note for c in trace.calls() if c.note)
    declined = len(trace.declined_calls)
    if trace.reason:
        said[trace.reason] += declined
    whole = [explain(trace), *trace.kv_reasons, *trace.remarks]
    sentences = dict.fromkeys([s for s in whole if s] + list(said))
    return [{"code": code_of(s), "sentence": s, "calls": said[s]} for s in sentences]
