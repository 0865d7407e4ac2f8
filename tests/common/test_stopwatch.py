"""Watches: the host's clock on a CPU, the device's own on CUDA, nothing where neither is known."""

import pytest
import torch
from motioncache_pack import kernels as ops
from motioncache_pack.motioncache_core.common import stopwatch as timing
from motioncache_pack.motioncache_core.common.stopwatch import Stopwatch
from motioncache_pack.motioncache_core.engine import session
from motioncache_pack.motioncache_core.report.trace import Trace
from motioncache_pack.motioncache_core.sampling.run_facts import RunFacts
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.runs import Run, Steady
from motioncache_pack.tests.support.toy_models import DoublingNet


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

    def query(self):
        return self.stream.done > self.place

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


def test_whether_a_watch_is_ready_is_known_without_waiting(queue):
    watch = Stopwatch(torch.device("cuda", 0))
    watch.stop()
    assert not watch.ready()
    assert queue.done == 0
    queue.done = 2
    assert watch.ready()


class Watch:
    """A stand-in for a watch whose device is done with a call when the next but one is made."""

    def __init__(self, device):
        self.made.append(self)

    def stop(self):
        pass

    def ready(self):
        return len(self.made) - self.made.index(self) > 2

    def seconds(self):
        assert self.may_wait or self.ready(), "a run waited for the device"
        return 1.0


def test_calls_in_progress_are_not_waited_for(monkeypatch):
    Watch.made, Watch.may_wait = [], False
    monkeypatch.setattr(session, "Stopwatch", Watch)
    seen = []
    trace = Trace(MotionCacheSettings().as_dict())
    run = Run(DoublingNet(blocks=1, attention=1))
    run.trace = trace
    run.session = session.Session(
        MotionCacheSettings(), ops, RunFacts(profile=Steady()), trace,
        lambda t: seen.append([c.seconds for c in t.calls()]),
    )  # fmt: skip
    for t in (1000, 900, 800, 700):
        run.call(torch.ones(1, 2, 3, 1, 1), t)
    # before the first call what keys and values are going to take is told
    assert seen == [[], [0.0], [0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]
    Watch.may_wait = True
    run.session.close()
    assert [c.seconds for c in trace.calls()] == [1.0] * 4
