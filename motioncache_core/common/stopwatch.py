"""How long the device was at a model call, without waiting for it."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Runs from its making to `stop`: on the host, or in the device's queue of work.

    Other devices than a CPU and CUDA's have no events that are read here; their calls are not
    timed.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cpu = device.type == "cpu"
        self._started = time.perf_counter()
        self._stopped = self._started
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        if device.type == "cuda" and torch.cuda.is_available():
            self._stream = torch.cuda.current_stream(device)
            self._events = (
                torch.cuda.Event(enable_timing=True),
                torch.cuda.Event(enable_timing=True),
            )
            self._events[0].record(self._stream)

    def stop(self) -> None:
        """The timed work has been handed out."""
        self._stopped = time.perf_counter()
        if self._events is not None:
            self._events[1].record(self._stream)

    def ready(self) -> bool:
        """Whether `seconds` would not have to wait."""
        return self._events is None or bool(self._events[1].query())

    def seconds(self) -> float:
        """Seconds of a stopped watch, 0 where they are not known. Waits for the device."""
        if self._events is not None:
            start, end = self._events
            end.synchronize()
            return float(start.elapsed_time(end)) / 1000
        return self._stopped - self._started if self._on_cpu else 0.0
