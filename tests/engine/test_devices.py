"""One run on several devices: what threads share, and what becomes of their traces."""

import threading

import pytest
import torch
from motioncache_pack import kernels as ops
from motioncache_pack.motioncache_core import (
    DeviceSessions,
    MapExchange,
    ModelCall,
    MotionCacheSettings,
    RunFacts,
    Session,
)
from motioncache_pack.motioncache_core.common.reasons import because
from motioncache_pack.motioncache_core.common.token_layout import TokenLayout
from motioncache_pack.motioncache_core.engine.devices import THREAD_DEVICE
from motioncache_pack.motioncache_core.report.merge_traces import merge
from motioncache_pack.motioncache_core.report.trace import (
    CallRecord,
    ChunkRecord,
    EvaluationRecord,
    Trace,
)
from motioncache_pack.tests.core.runs import Steady, living_tensors
from motioncache_pack.tests.support.toy_models import DoublingNet

SETTINGS = MotionCacheSettings(warmup_steps=1, reuse_threshold=0.5, policy="chunk")
CPU = torch.device("cpu")


def sessions(trace):
    facts, exchange = RunFacts(profile=Steady(0.2)), MapExchange()

    def make(_, kept):
        return Session(SETTINGS, ops, facts, kept, exchange=exchange)

    return DeviceSessions(make, "a", trace)


def call(network, device, value=1.0, t=900.0):
    x = torch.full((1, 2, 3, 1, 1), value)
    timestep = torch.tensor([t])

    def run(options):
        return network(x, timestep, transformer_options=options)

    options = {} if device is None else {THREAD_DEVICE: device}
    return ModelCall(network, run, x, timestep, (device,), options)


def test_calls_that_name_no_device_are_the_models_own():
    trace = Trace(SETTINGS.as_dict())
    run = sessions(trace)
    for device in (None, "a"):
        run.evaluate(call(DoublingNet(), device))
    assert list(run._sessions) == ["a"]
    assert run.reached
    run.close()
    assert len(trace.evaluations) == 1
    assert len(trace.evaluations[0].calls) == 2


def test_a_call_that_outlasts_the_run_keeps_nothing():
    trace = Trace(SETTINGS.as_dict())
    run, network = sessions(trace), DoublingNet()
    run.evaluate(call(network, "a"))
    entered, closed = threading.Event(), threading.Event()

    class Slow(DoublingNet):
        def forward(self, *args, **kwargs):
            entered.set()
            assert closed.wait(30)
            return super().forward(*args, **kwargs)

    Slow.__module__, Slow.__qualname__ = DoublingNet.__module__, DoublingNet.__qualname__
    before = living_tensors()
    results = []
    slow = Slow()
    worker = threading.Thread(
        target=lambda: results.append(run.evaluate(call(slow, "b")).reshape(-1).tolist())
    )
    worker.start()
    assert entered.wait(30)
    run.close()
    closed.set()
    worker.join(30)
    assert results == [[4.0] * 6]
    late = run.evaluate(call(network, "c"))
    assert late.reshape(-1).tolist() == [4.0] * 6
    del late
    assert list(run._sessions) == ["a", "b"]
    assert [t for key, t in living_tensors().items() if key not in before] == []
    assert [e.index for e in trace.evaluations] == [0]


def maps(*values):
    return {value: torch.full((1, 3, 2), float(value)) for value in values}


def test_a_device_gets_the_maps_of_its_own_evaluation():
    exchange, layout = MapExchange(), TokenLayout(3, 1, 2)
    first, second = exchange.device_maps(), exchange.device_maps()
    for lane, own in ((first, maps(0)), (second, maps(1))):
        lane.begin(layout, (1.0,))
        lane.publish(own)
    # the first is done with the next evaluation before the second begins it
    assert list(first.collect(maps(0), CPU)) == [0, 1]
    first.begin(layout, (0.9,))
    first.publish(maps(5))
    assert list(second.collect(maps(1), CPU)) == [0, 1]
    second.begin(layout, (0.9,))
    second.publish(maps(1))
    assert list(second.collect(maps(1), CPU)) == [1, 5]


def test_an_evaluation_that_a_device_missed_is_not_mixed_up():
    exchange, layout = MapExchange(), TokenLayout(3, 1, 2)
    first, second = exchange.device_maps(), exchange.device_maps()
    for sigma in (1.0, 0.9):
        first.begin(layout, (sigma,))
        first.publish(maps(0))
    second.begin(layout, (1.0,))
    second.publish(maps(1))
    assert list(first.collect(maps(0), CPU)) == [0]
    # a second evaluation at the same level is another one
    second.begin(layout, (0.9,))
    second.begin(layout, (0.9,))
    second.publish(maps(1))
    assert list(first.collect(maps(0), CPU)) == [0]
    second.begin(layout, (0.8,))
    second.publish(maps(1))
    first.begin(layout, (0.8,))
    assert list(first.collect(maps(0), CPU)) == [0, 1]
    assert list(first.collect({0: torch.zeros(2, 3, 2)}, CPU)) == [0]


def test_maps_go_with_the_clip_they_are_of():
    exchange, layout = MapExchange(), TokenLayout(3, 1, 2)
    lane = exchange.device_maps()
    lane.begin(layout, (1.0,))
    lane.publish(maps(0))
    del lane
    assert list(exchange.devices) == []


def trace_of(*kinds, **changes):
    def record(i, kind):
        chunk = ChunkRecord(kind, "motion", 5 * (kind == "dense"), 5, 0.1)
        calls = [CallRecord(kind, 1, 1, 5)]
        return EvaluationRecord(i, 1 - i / 10, "all branches", (chunk,), calls)

    records = [record(i, kind) for i, kind in enumerate(kinds)]
    settings = {"cfg_mask": "shared"}
    return Trace(settings, grid=(5, 1, 1), evaluations=records, **{"kv_bytes": 3, **changes})


@pytest.mark.parametrize("same", [True, False])
def test_traces_of_devices_are_added_up(same):
    into = trace_of("dense", "reuse", "dense", kv_reason="3 MiB")
    other = trace_of("dense", "reuse" if same else "dense", kv_reason="4 MiB")
    other.decline(because("autoregressive"))
    other.residual_host_bytes, other.residual_reason = 7, "in the host's memory"
    other.advise("chosen there")
    merge(into, other, "cuda:1")
    assert (into.kv_bytes, into.residual_host_bytes) == (6, 7)
    assert into.residual_reason == "on cuda:1: in the host's memory"
    assert into.why == ["chosen there"]
    assert into.kv_reason == "3 MiB; on cuda:1: 4 MiB"
    assert into.reason.code == "autoregressive"
    assert [len(e.calls) for e in into.evaluations] == ([2, 2, 1] if same else [1, 1, 1, 1, 1])
    assert [e.index for e in into.evaluations] == list(range(3 if same else 5))
    scopes = [e.scope for e in into.evaluations[3:]]
    assert scopes == ([] if same else ["all branches, cuda:1"] * 2)
