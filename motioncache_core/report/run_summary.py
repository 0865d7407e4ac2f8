"""What a run did, and why not more: the numbers and sentences that reports are made of."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from math import fsum
from statistics import median
from typing import Any

from ..common.decision_kinds import DENSE, PARTIAL, REUSE
from ..common.reasons import because, code_of
from ..sampling.schedule import CLEAN, DONE, UNSTARTED
from .trace import Trace

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
        # seconds and the work without reuse: of calls in full that were timed, and of all others
        self._full: list[tuple[float, int]] = []
        self._left_out: list[tuple[float, int]] = []
        # of all batch rows: token rows without reuse and with it, and multiply-accumulates of a
        # block, also with every frame computed and attending to all others
        self._rows = self._rows_done = self._whole = self._work = self._work_done = 0
        for call in trace.calls():
            self.calls += 1
            self.block_calls += call.blocks
            self._reused |= call.kind in (PARTIAL, REUSE)
            if call.note:
                self.notes[call.note] += 1
            # text and sound are computed with whatever is
            rows = (call.window or trace.tokens) + call.around
            computed = call.computed + (call.around if call.blocks else 0)
            whole = rows, call.window_pairs or rows * rows
            needed = (call.needed + call.around, call.needed_pairs) if call.needed else whole
            pairs = call.pairs if call.needed else computed * rows
            # the clip may not have been known yet when a call was declined
            done = whole if call.kind == "declined" else (computed, pairs)
            beside = self._beside(*whole)
            work, alone = (call.rows * (self._macs(*part) + beside) for part in (done, needed))
            self._rows += call.rows * needed[0]
            self._rows_done += call.rows * done[0]
            self._whole += call.rows * (self._macs(*whole) + beside)
            self._work += alone
            self._work_done += work
            if call.kind in (PARTIAL, REUSE):
                self._left_out.append((call.seconds, alone))
            elif call.seconds > 0:
                self._full.append((call.seconds, alone))

    def _macs(self, rows: int, pairs: int) -> int:
        # linear layers grow with the rows, self-attention with the query-key pairs
        return rows * self.trace.row_work + pairs * self.trace.pair_work

    def _beside(self, rows: int, pairs: int) -> int:
        each_row, each_pair = self.trace.beside
        return rows * each_row + pairs * each_pair

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

    def seconds_without(self) -> float | None:
        """Estimate: seconds of the same run without MotionCache.

        From the calls of this run that were computed in full: their median time for a unit of
        work, the first one left out where there are others, as it is slow for reasons of its own.
        Every other call is taken to have needed that for its work, and what the pack did beside the
        calls is taken off. Where it works inside the model's blocks too, full calls are slowed down
        by what they keep, and the fastest of them counts. None where no full call was timed, or all
        calls were full ones.
        """
        rates = [took / work for took, work in self._full[1:] or self._full if work]
        if not self._left_out or not rates or not self.trace.seconds:
            return None
        rate = min(rates) if self.trace.blocks else median(rates)
        left_out = fsum(rate * work - took for took, work in self._left_out)
        return self.trace.seconds - self.trace.own_seconds + left_out

    def seconds_saved(self) -> float | None:
        """Estimate: how many seconds less than `seconds_without`; negative where it took longer."""
        without = self.seconds_without()
        return None if without is None else without - self.trace.seconds

    def speed_up(self) -> float | None:
        """Estimate: `seconds_without` as a multiple of the run's own seconds."""
        without = self.seconds_without()
        return None if without is None else without / self.trace.seconds

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
