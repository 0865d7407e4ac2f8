"""A run whose conditioning branches are computed on several devices, from a thread each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

from torch import Tensor

from ..report.merge_traces import merge
from ..report.trace import Trace
from ..sampling.model_call import ModelCall
from .session import Session

# where ComfyUI says which device's thread a call comes from
THREAD_DEVICE = "multigpu_thread_device"


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
        self._begun = False

    def begin(self) -> None:
        """`Session.begin` on all devices."""
        with self._lock:
            self._begun = True
            for session in self._sessions.values():
                session.begin()

    def evaluate(self, call: ModelCall) -> Tensor:
        """`Session.evaluate` of the call's device."""
        device = call.options.get(THREAD_DEVICE, self._device)
        with self._lock:
            closed = self._closed
            if device not in self._sessions and not closed:
                self._traces[device] = Trace(dict(self._trace.settings))
                self._sessions[device] = self._make(device, self._traces[device])
                if self._begun:
                    self._sessions[device].begin()
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
