"""What fills a run's trace while the run goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..common.reasons import Reason
from ..common.token_layout import TokenLayout
from ..sampling.run_facts import RunFacts
from .trace import CallRecord, EvaluationRecord, PlannedKeys, Trace


class TraceRecorder:
    """Writes into one trace. Masks and weights stay on the device until the run is over.

    Args:
        on_plan: is given the trace as soon as it says what keys and values are going to take.
    """

    def __init__(
        self, trace: Trace, run: RunFacts, on_plan: Callable[[Trace], None] | None = None
    ) -> None:
        self.trace, self._on_plan = trace, on_plan
        trace.part, trace.windows = run.part, tuple(run.windows)
        self._maps: list[tuple[EvaluationRecord, Tensor | None, Tensor | None]] = []
        # of the evaluation that goes on, by scope and windows; None where nobody says it begins
        self._current: dict[tuple[str, int, int], EvaluationRecord] | None = None

    def begin(self) -> None:
        """The next evaluation begins: whatever is decided in it is told of one record."""
        self._current = {}

    def decline(self, reason: str) -> None:
        """The first reason why calls went through untouched."""
        self.trace.decline(reason)

    def remark(self, reason: Reason) -> None:
        """Something that did not stop the run from reusing; once."""
        self.trace.remark(reason)

    def reset(self, code: str) -> None:
        """An evaluation could not go on with what was stored.

        Args:
            code: of the reason that is told if that happens all the time.
        """
        self.trace.resets[code] += 1

    def model(
        self,
        name: str,
        distance: str,
        advice: str | None,
        blocks: int,
        work: tuple[int, int],
        beside: tuple[int, int] = (0, 0),
    ) -> None:
        """What is sampled.

        Args:
            work: multiply-accumulates of a block for a token row and for a query-key pair.
            beside: the same of what runs beside a block on all rows, whatever is computed.
        """
        trace = self.trace
        trace.model, trace.distance, trace.blocks = name, distance, blocks
        trace.row_work, trace.pair_work = work
        trace.beside = beside
        trace.advise(advice)

    def clip(self, layout: TokenLayout) -> None:
        """The clip, or the window of it that the model sees from now on."""
        self.trace.show(layout)

    def evaluation(
        self, record: EvaluationRecord, weight: Tensor | None, active: Tensor | None
    ) -> EvaluationRecord:
        """A decision, with motion weights `(L,)` fp32 and the mask of active rows `(L,)`.

        Returns:
            the record that its calls belong to: that of the evaluation's first decision.
        """
        if self._current is not None:
            first = self._current.setdefault((record.scope, record.position, record.window), record)
            if first is not record:
                return first
        self.trace.evaluations.append(record)
        if weight is not None:
            weight = (weight * 255).round().to(torch.uint8)
        self._maps.append((record, weight, active))
        return record

    def weighed(self, record: EvaluationRecord, weight: Tensor) -> None:
        """Motion weights `(L,)` fp32 of a decision, learned after it."""
        self._maps.append((record, (weight * 255).round().to(torch.uint8), None))

    def passed_through(self, record: CallRecord) -> None:
        """A call that ran untouched."""
        self.trace.declined_calls.append(record)

    def answers(self, nbytes: int) -> None:
        """Bytes of the model's answers that are kept: the most is remembered."""
        self.trace.answer_bytes = max(self.trace.answer_bytes, nbytes)

    def memory(self, sizes: tuple[int, int, int, int, int]) -> None:
        """Bytes of residuals and of keys and values on the device, of both in the host's memory,
        and of what is kept for deciding: the most of each is remembered."""
        trace = self.trace
        residual, kv, residual_host, kv_host, deciding = sizes
        trace.residual_bytes = max(trace.residual_bytes, residual)
        trace.residual_host_bytes = max(trace.residual_host_bytes, residual_host)
        trace.kv_bytes = max(trace.kv_bytes, kv)
        trace.kv_host_bytes = max(trace.kv_host_bytes, kv_host)
        trace.deciding_bytes = max(trace.deciding_bytes, deciding)

    def planned(self, keys: PlannedKeys) -> None:
        """What keys and values are going to take; nothing of a clip that keeps none."""
        if keys.nbytes + keys.host_bytes == 0:
            return
        self.trace.kv_planned = keys
        if self._on_plan is not None:
            self._on_plan(self.trace)

    def placed(self, keys: Sequence[str], residuals: str) -> None:
        """Where keys and values are kept, and residuals, and why."""
        self.trace.keep_kv_reasons(keys)
        self.trace.residual_reason = residuals

    def freeze(self) -> None:
        """Fill the records. Waits for the device."""
        for record, weight, active in self._maps:
            if weight is not None:
                record.weight = weight.cpu().numpy().copy()
            if active is not None:
                record.active = np.packbits(active.cpu().numpy().astype(bool))
        self._maps.clear()

    def finish(self, seconds: float, own: float = 0.0) -> None:
        """The run is over; its evaluations took so long, of which the pack had its own beside the
        model's calls."""
        trace = self.trace
        trace.seconds, trace.own_seconds = trace.seconds + seconds, trace.own_seconds + own
        trace.finished = True
