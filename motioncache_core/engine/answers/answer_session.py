"""One sampling run whose evaluations are computed or foretold as a whole (ours)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from ...common.decision_kinds import DENSE, REUSE
from ...common.phrases import phrase
from ...common.protocols import TokenOps
from ...common.reasons import Reason, because
from ...common.stopwatch import Stopwatch
from ...common.token_layout import TokenLayout
from ...policy.answer_plan import AnswerPlan
from ...report.trace import CallRecord, ChunkRecord, EvaluationRecord, Trace
from ...report.trace_recorder import TraceRecorder
from ...sampling.answer_call import AnswerCall
from ...sampling.passes import PassNames
from ..call_watches import CallWatches
from .pass_state import PassState, relative_change

log = logging.getLogger(__name__)

SPENT = because("out_of_memory_answers")
# a noise level that was rehearsed and the one that is asked for, to each other
_ROUNDING = 1e-3


class AnswerSession:
    """State of one run. Make one per run, call `close` in a `finally`.

    The calls of one evaluation may come from several threads, one for each device: what they share
    is behind a lock, and a pass belongs to its device's thread. A call that outlasts the run runs
    on and leaves nothing.

    Args:
        plan: which evaluations are computed; None computes all of them.
        ops: the kernels, or anything that implements `TokenOps`.
        recorder: fills the run's trace, which `close` finishes.
        on_call: is given the trace after each call of the model.
    """

    def __init__(
        self,
        plan: AnswerPlan | None,
        ops: TokenOps,
        recorder: TraceRecorder,
        on_call: Callable[[Trace], None] | None = None,
    ) -> None:
        self._plan, self._ops, self._recorder, self._on_call = plan, ops, recorder, on_call
        self._passes: dict[tuple[Hashable, ...], PassState] = {}
        self._names = PassNames()
        self._index, self._sigma, self._reuse = -1, 0.0, False
        self._last_computed = -1
        self._record: EvaluationRecord | None = None
        # whether another network was met in this evaluation
        self._alternates = False
        # the pass whose change is drawn
        self._shown: tuple[Hashable, ...] | None = None
        # shape of the latents that the report's grid is of
        self._drawn: torch.Size | None = None
        self._lost: Reason | None = None
        self._lock = threading.Lock()
        self._watches = CallWatches()
        self._started, self._own = time.perf_counter(), 0.0
        self.reached = self._closed = False

    def begin(self, sigma: float) -> None:
        """The sampler asks for its next evaluation, at this noise level."""
        with self._lock:
            if self._index < 0:
                # the host loads the model in between
                self._started = time.perf_counter()
            self._let_go()
            self._adapt()
            self._index, self._sigma = self._index + 1, sigma
            if self._names.begin():
                self._recorder.reset("passes_new")
            self._record, self._alternates = None, False
            plan = self._plan if self._lost is None else None
            if plan is not None and not plan.expects(self._index, sigma, _ROUNDING):
                self._lose(because("steps_differ", evaluation=self._index, sigma=sigma))
                plan = None
            self._reuse = plan is not None and self._index not in plan.computed
            if not self._reuse:
                self._last_computed = self._index

    def evaluate(self, call: AnswerCall) -> Tensor:
        """Clean latents for the call: from the model, or foretold.

        Raises:
            whatever the model raises.
        """
        uneven = len(call.x) % len(call.passes) != 0
        with self._lock:
            over = self._closed
            if not over and self._index < 0:
                # nothing can be reused, as nobody says where an evaluation begins
                self._recorder.decline(because("guider_unknown"))
            if not over:
                record = self._evaluation(call)
                names = [] if uneven else self._named(call)
                states = [self._state(name, call) for name in names]
        if over:
            # another thread's error has ended the run, and nobody reads this result
            return call.run()
        parts = () if uneven else call.x.split(call.samples)
        watch = Stopwatch(call.x.device)
        if self._reuse and states and all(s is not None and s.ledger.knows for s in states):
            told = [
                s.reuse(self._index, x, self._sigma, self._ops)
                for s, x in zip(states, parts, strict=True)
                if s is not None
            ]
            watch.stop()
            self._called(record, call, REUSE, watch)
            return told[0] if len(told) == 1 else torch.cat(told)
        x0 = call.run()
        watch.stop()
        self._called(record, call, DENSE, watch, because("new_pass") if self._reuse else "")
        if self._plan is None or not self._keeps or uneven or self._sigma <= 0:
            return x0
        return self._stored(call, names, states, x0, record)

    @property
    def _keeps(self) -> bool:
        """Whether answers are kept: not once the run is over or lost."""
        return self._lost is None and not self._closed

    def _stored(
        self,
        call: AnswerCall,
        names: list[tuple[Hashable, ...]],
        states: list[PassState | None],
        x0: Tensor,
        record: EvaluationRecord,
    ) -> Tensor:
        """What the sampler is given for clean latents from the model, which are remembered."""
        began = time.perf_counter()
        given, told = x0.split(call.samples), []
        parts = call.x.split(call.samples)
        for name, state, x, clean in zip(names, states, parts, given, strict=True):
            mine = self._new(name, call, x) if state is None else state
            mine.last_seen = self._index
            told.append(mine.store(self._index, x, clean, self._sigma, self._ops))
        self._observe(call, names, record)
        with self._lock:
            self._own += time.perf_counter() - began
        if all(t is g for t, g in zip(told, given, strict=True)):
            return x0
        return told[0] if len(told) == 1 else torch.cat(told)

    def close(self) -> None:
        """Freeze the trace and drop every tensor."""
        with self._lock:
            self._closed = True
            self._passes.clear()
            self._names.drop()
        self._recorder.freeze()
        # only now, as reading a watch waits for the device
        self._watches.read_all()
        self._recorder.finish(time.perf_counter() - self._started, self._own)

    def _named(self, call: AnswerCall) -> list[tuple[Hashable, ...]]:
        """What the call's passes are known by."""
        parts = zip(call.passes, call.x.split(call.samples), strict=True)
        names: list[tuple[Hashable, ...]] = [
            (self._names.name(key, x), x.shape[1:], call.samples, x.device) for key, x in parts
        ]
        if (
            self._names.moved
            and (why := because("passes_alike")) not in self._recorder.trace.remarks
        ):
            self._remark(why)
        return names

    def _state(self, name: tuple[Hashable, ...], call: AnswerCall) -> PassState | None:
        """The state of a pass that was there at the last computed evaluation."""
        state = self._passes.get(name)
        if state is None:
            return None
        stale = self._reuse and state.last_seen < self._last_computed
        other = not state.is_of(call.network)
        if other and not self._alternates:
            self._alternates = True
            self._recorder.reset("networks_alternate")
        if stale or other:
            del self._passes[name]
            return None
        state.last_asked = self._index
        return state

    def _new(self, name: tuple[Hashable, ...], call: AnswerCall, x: Tensor) -> PassState:
        plan = self._plan
        assert plan is not None
        state = PassState(call.network, x, plan.ledger(), plan.clean)
        state.last_asked = self._index
        with self._lock:
            if self._keeps:
                self._passes[name] = state
        return state

    def _let_go(self) -> None:
        """Passes that the evaluation that ends did not ask for are over, and those that were not
        there at the last computed one."""
        before, now = self._last_computed, self._index
        if any(s.last_asked == now for s in self._passes.values()):
            self._passes = {
                k: s
                for k, s in self._passes.items()
                if s.last_asked == now and s.last_seen >= before
            }
        # threads may have come in any order
        like_the_grid = [n for n in self._passes if self._drawn in n]
        self._shown = min(like_the_grid, key=repr, default=None)

    def _adapt(self) -> None:
        """Where evaluations behind the watched one go; the one time that a run waits for this."""
        plan = self._plan if self._lost is None else None
        if plan is None or plan.watched != self._index:
            return
        # parts of a picture, as tiles are, say less of it, and were less close
        passes = [] if self._names.alike else self._passes.values()
        change = relative_change(s for s in passes if s.last_seen == self._index)
        self._plan = plan.adapted(change)
        if self._plan.start_weight != 1:
            self._recorder.trace.advise(self._plan.moved(change))

    def _lose(self, reason: Reason) -> None:
        """From now on every evaluation is computed, and nothing is kept."""
        self._lost = reason
        self._passes.clear()
        self._remark(reason)

    def _remark(self, reason: Reason) -> None:
        self._recorder.remark(reason)
        log.warning("MotionCache - %s.", reason)

    def _evaluation(self, call: AnswerCall) -> EvaluationRecord:
        """The record of the evaluation that is going on; a new one with its first call."""
        if self._record is None:
            trace, grid = self._recorder.trace, call.grid
            if trace.grid is None:
                self._drawn = call.x.shape[1:]
                self._recorder.model(call.name, "", None, 0, (1, 0))
                self._recorder.clip(TokenLayout(*grid))
            kind, tokens = REUSE if self._reuse else DENSE, trace.tokens
            chunk = ChunkRecord(kind, "", 0 if self._reuse else tokens, tokens, None)
            self._record = EvaluationRecord(
                len(trace.evaluations), self._sigma, phrase("all passes"), (chunk,)
            )
            self._recorder.evaluation(self._record, None, None)
        return self._record

    def _observe(
        self, call: AnswerCall, names: list[tuple[Hashable, ...]], record: EvaluationRecord
    ) -> None:
        """What a computed call leaves in the report."""
        with self._lock:
            if not self._keeps:
                return
            self._recorder.answers(sum(s.nbytes() for s in self._passes.values()))
            if SPENT not in self._recorder.trace.remarks and any(
                s.on_host for s in self._passes.values()
            ):
                self._remark(SPENT)
            shown = None
            if self._shown is not None and self._shown in names:
                shown = self._passes.get(self._shown)
            change = None if shown is None else shown.change(call.video, call.patch)
            if change is not None:
                self._recorder.weighed(record, change)

    def _called(
        self,
        record: EvaluationRecord,
        call: AnswerCall,
        kind: str,
        watch: Stopwatch,
        note: str = "",
    ) -> None:
        tokens = call.grid[0] * call.grid[1] * call.grid[2]
        computed = tokens if kind == DENSE else 0
        made = CallRecord(
            kind, len(call.passes), call.x.shape[0], computed, note=note, window=tokens
        )
        with self._lock:
            if self._closed:
                return
            self.reached = True
            record.calls.append(made)
            self._watches.add(made, watch)
            self._watches.read_ready()
        if self._on_call is not None:
            self._on_call(self._recorder.trace)
