"""Seconds of a run's calls, read when the device is done with them."""

from __future__ import annotations

from collections import deque

from ..common.stopwatch import Stopwatch
from ..report.trace import CallRecord


class CallWatches:
    """The stopwatches of calls whose seconds are not in their records yet, oldest first."""

    def __init__(self) -> None:
        self._running: deque[tuple[CallRecord, Stopwatch]] = deque()

    def add(self, record: CallRecord, watch: Stopwatch) -> None:
        """A call has been handed out to the device; `watch` is stopped."""
        self._running.append((record, watch))

    def read_ready(self) -> None:
        """Fill the records of the calls that the device is done with. Does not wait."""
        while self._running and self._running[0][1].ready():
            record, watch = self._running.popleft()
            record.seconds = watch.seconds()

    def read_all(self) -> None:
        """Fill the records of all calls. Waits for the device."""
        for record, watch in self._running:
            record.seconds = watch.seconds()
        self._running.clear()
