"""What a run did, and why not more: the numbers and sentences that reports are made of."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from itertools import combinations
from statistics import median
from typing import Any

from ..common.decision_kinds import DENSE, PARTIAL, REUSE
from ..common.reasons import because, code_of
from ..sampling.schedule import CLEAN, DONE, UNSTARTED
from .trace import Trace

# calls that an estimate of seconds looks at, at most
_FITTED_CALLS = 300
_PROTECTED = {"warm-up", "last", "end", "restart", CLEAN, UNSTARTED, DONE}


class RunSummary:
    """What a run did, from one pass over its calls.

    Attributes:
        calls, block_calls: of the network, and of its blocks.
        notes: why calls differed from their decisions, and how many calls each is said of.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.calls = self.block_calls = 0
        self.notes: Counter[str] = Counter()
        self._reused = False
        self._timed: list[tuple[int, float]] = []
        # of all batch rows: token rows without reuse and with it, and multiply-accumulates of a
        # block, also with every frame computed and attending to all others
        self._rows = self._rows_done = self._whole = self._work = self._work_done = 0
        for call in trace.calls():
            self.calls += 1
            self.block_calls += call.blocks
            self._reused |= call.kind in (PARTIAL, REUSE)
            if call.note:
                self.notes[call.note] += 1
            tokens = call.window or trace.tokens
            whole = tokens, call.window_pairs or tokens * tokens
            needed = (call.needed, call.needed_pairs) if call.needed else whole
            pairs = call.pairs if call.needed else call.computed * trace.tokens
            # the clip may not have been known yet when a call was declined
            done = whole if call.kind == "declined" else (call.computed, pairs)
            work = call.rows * self._macs(*done)
            self._rows += call.rows * needed[0]
            self._rows_done += call.rows * done[0]
            self._whole += call.rows * self._macs(*whole)
            self._work += call.rows * self._macs(*needed)
            self._work_done += work
            if call.seconds > 0:
                self._timed.append((work, call.seconds))

    def _macs(self, rows: int, pairs: int) -> int:
        # linear layers grow with the rows, self-attention with the query-key pairs
        return rows * self.trace.row_work + pairs * self.trace.pair_work

    @cached_property
    def kinds(self) -> Counter[str]:
        """Evaluations by what was decided."""
        return Counter(e.kind for e in self.trace.evaluations)

    @property
    def compute_share(self) -> float:
        """Token rows sent through the blocks, as a share of the same run's without reuse."""
        return self._rows_done / self._rows if self._rows else 1.0

    @property
    def flops_share(self) -> float:
        """Work inside the blocks, attention counted, as a share of the same run's without reuse."""
        return self._work_done / self._work if self._work else 1.0

    @property
    def engine_share(self) -> float:
        """Work inside the blocks without reuse, as a share of the same schedule's when every frame
        of the model's input is computed and attends to all others. Below 1 under block-causal
        attention, which is not what a bidirectional model computes."""
        return self._work / self._whole if self._whole else 1.0

    def seconds_saved(self, fitted: int = _FITTED_CALLS) -> float | None:
        """Estimate: the work that was left out, times what a unit of work took.

        That rate is the median slope of seconds over work between any two calls (Theil-Sen), so
        that neither a call's fixed cost nor a slow first call counts as saved. None where seconds
        are not known or all calls did the same work. About `fitted` calls are looked at.
        """
        points = self._timed[:: 1 + len(self._timed) // fitted]
        pairs = combinations(points, 2)
        slopes = [(t1 - t0) / (w1 - w0) for (w0, t0), (w1, t1) in pairs if w0 != w1]
        return max(0.0, median(slopes)) * (self._work - self._work_done) if slopes else None

    @cached_property
    def why(self) -> str | None:
        """Why nothing was reused, and what to change; None if something was."""
        trace = self.trace
        if trace.reason and self.compute_share == 1:
            return trace.reason
        if not trace.evaluations:
            return because("not_called")
        if self._reused:
            return None
        chunks = [c for e in trace.evaluations for c in e.chunks]
        phases = Counter(c.phase for c in chunks)
        if 2 * phases["restart"] > len(chunks):
            return because("noise_rises")
        code, times = next(iter(trace.resets.most_common(1)), ("", 0))
        if 2 * times > max(Counter(e.scope for e in trace.evaluations).values()):
            return because(code)
        if set(phases) <= _PROTECTED:
            return because("protected", evaluations=len(trace.evaluations))
        if self.notes and set(self.kinds) != {DENSE}:
            return next(iter(self.notes))
        budget = trace.settings.get("compute_budget")
        if budget:
            return because("budget_whole", budget=budget)
        largest = max((c.distance or 0.0 for c in chunks), default=0.0)
        threshold = trace.settings.get("reuse_threshold")
        return because("threshold_reached", largest=largest, threshold=threshold)

    @cached_property
    def reasons(self) -> list[dict[str, Any]]:
        """Everything that kept the run from reusing (more), with the calls that it was told of.

        Each has a stable `code` from `common/reasons.py`, a `sentence`, and `calls`, which is 0
        where it is not told of single calls.
        """
        trace, calls = self.trace, self.notes.copy()
        if trace.reason:
            calls[trace.reason] += len(trace.declined_calls)
        whole = [self.why, *trace.kv_reasons, *trace.remarks]
        sentences = dict.fromkeys([s for s in whole if s] + list(calls))
        return [{"code": code_of(s), "sentence": s, "calls": calls[s]} for s in sentences]
