"""Watches: the host's clock on a CPU, the device's own on CUDA, nothing where neither is known."""

import pytest
import torch
from motioncache_pack.motioncache_core import timing
from motioncache_pack.motioncache_core.timing import Stopwatch


def test_a_watch_stands_still_once_it_is_stopped(monkeypatch):
    times = iter([10.0, 12.5, 99.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(times))
    watch = Stopwatch(torch.device("cpu"))
    watch.stop()
    assert watch.seconds() == 2.5
    assert watch.seconds() == 2.5


def test_other_devices_are_not_timed():
    # a GPU goes on working after the call has returned, as this stand-in for it would
    watch = Stopwatch(torch.device("meta"))
    watch.stop()
    assert watch.seconds() == 0.0


class Queue:
    """A stand-in for a CUDA stream: it works through what it is given when somebody waits."""

    def __init__(self):
        self.given, self.done = [], 0


class Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self, stream):
        self.stream, self.place = stream, len(stream.given)
        stream.given.append(0.0)

    def synchronize(self):
        self.stream.done = self.place + 1

    def elapsed_time(self, end):
        assert self.stream.done > end.place, "an event was read before it had come"
        return sum(self.stream.given[self.place : end.place])


@pytest.fixture
def queue(monkeypatch):
    stream = Queue()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    return stream


def test_a_device_is_timed_by_its_own_events_and_waited_for_at_the_end(queue):
    queue.given.append(500.0)
    watch = Stopwatch(torch.device("cuda", 0))
    queue.given.append(1250.0)
    watch.stop()
    queue.given.append(700.0)
    assert queue.done == 0
    # milliseconds between the two events, neither what came before nor after
    assert watch.seconds() == 1.25
    # what was given afterwards was not waited for
    assert queue.done == 4
