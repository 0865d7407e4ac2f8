"""A run whose conditioning branches are computed on several devices, from a thread each."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import replace

from torch import Tensor

from ..report.trace import EvaluationRecord, Trace
from ..sampling.model_call import ModelCall
from .session import Session

# where ComfyUI says which device's thread a call comes from
THREAD_DEVICE = "multigpu_thread_device"
_BYTES = ("residual_bytes", "residual_host_bytes", "kv_bytes", "kv_host_bytes", "deciding_bytes")


class DeviceSessions:
    """The sessions of one run, one for each device; nothing that changes is shared by two threads.

    Args:
        make: a session for a device, that fills the given trace.
        device: the model's own; calls that name none are its calls, too.
        trace: gets what happened on all devices, when `close` is called.
    """

    def __init__(
        self, make: Callable[[Hashable, Trace], Session], device: Hashable, trace: Trace
    ) -> None:
        self._make, self._device, self._trace = make, device, trace
        self._lock, self._closed = threading.Lock(), False
        self._sessions = {device: make(device, trace)}
        self._traces = {device: trace}

    def evaluate(self, call: ModelCall) -> Tensor:
        """`Session.evaluate` of the call's device."""
        device = call.options.get(THREAD_DEVICE, self._device)
        with self._lock:
            closed = self._closed
            if device not in self._sessions and not closed:
                self._traces[device] = Trace(dict(self._trace.settings))
                self._sessions[device] = self._make(device, self._traces[device])
        if closed:
            # another device's error has ended the run, and nobody reads this result
            return call.run(dict(call.options))
        return self._sessions[device].evaluate(call)

    @property
    def reached(self) -> bool:
        """Whether the network was called through any of the sessions."""
        return any(session.reached for session in list(self._sessions.values()))

    def close(self) -> None:
        """Freeze the trace and drop every tensor."""
        with self._lock:
            self._closed = True
        for session in self._sessions.values():
            session.close()
        for device, trace in self._traces.items():
            if trace is not self._trace:
                merge(self._trace, trace, str(device))


def merge(into: Trace, trace: Trace, device: str) -> None:
    """Add what happened on another device.

    Where both have always decided alike, an evaluation gets the calls of both; else those of the
    other device are listed as a scope of their own.
    """
    for name in _BYTES:
        setattr(into, name, getattr(into, name) + getattr(trace, name))
    if into.grid is None:
        for name in ("model", "distance", "grid", "chunks", "blocks", "width", "ffn_width"):
            setattr(into, name, getattr(trace, name))
    into.decline(trace.reason)
    into.declined_calls += trace.declined_calls
    for remark in trace.remarks:
        into.remark(remark)
    for sentence in trace.why:
        into.advise(sentence)
    for name in ("residual_reason", "kv_reason"):
        here, there = getattr(into, name), getattr(trace, name)
        if there and there != here:
            setattr(into, name, f"{here}; " * bool(here) + f"on {device}: {there}")
    into.kv_reasons += [r for r in trace.kv_reasons if r not in into.kv_reasons]
    alike = _by_moment(into)
    same = into.settings.get("cfg_mask") == "shared" and all(
        moment in alike and _decided(alike[moment]) == _decided(record)
        for moment, record in _by_moment(trace).items()
    )
    for moment, record in _by_moment(trace).items():
        if same:
            alike[moment].calls += record.calls
        else:
            scope = f"{record.scope}, {device}"
            into.evaluations.append(replace(record, index=len(into.evaluations), scope=scope))


def _decided(record: EvaluationRecord) -> list[tuple[str, str, int]]:
    # distances may differ in the last bits between devices
    return [(chunk.kind, chunk.phase, chunk.active) for chunk in record.chunks]


def _by_moment(trace: Trace) -> dict[Hashable, EvaluationRecord]:
    """The evaluations by what names them on every device."""
    seen: Counter[Hashable] = Counter()
    found: dict[Hashable, EvaluationRecord] = {}
    for record in trace.evaluations:
        moment = (record.scope, record.sigma, record.window, record.first_frame)
        seen[moment] += 1
        found[(moment, seen[moment])] = record
    return found
