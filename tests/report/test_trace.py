"""The trace counts what really ran."""

import torch
from motioncache_pack.motioncache_core.report.trace import Trace, TraceHandle
from motioncache_pack.tests.core.runs import Run, dictate
from motioncache_pack.tests.core.small_wan import TEXT_DIM, TEXT_TOKENS, small_wan
from motioncache_pack.tests.support.toy_models import DoublingNet


def test_what_the_model_is_and_where_things_are():
    run = Run(small_wan())
    run.call(torch.randn(1, 16, 3, 5, 6), 1000, torch.randn(1, TEXT_TOKENS, TEXT_DIM))
    trace = run.trace
    assert (trace.model, trace.distance) == ("Wan", "steady")
    assert (trace.grid, trace.chunks, trace.tokens) == ((3, 3, 3), (3,), 27)
    assert (trace.blocks, trace.pair_work) == (3, 512)
    assert trace.settings["policy"] == "motion"


def test_masks_weights_and_kinds_of_evaluations(monkeypatch):
    dictate(monkeypatch, "dense", [0, 2], "reuse")
    run = Run(DoublingNet(blocks=1, attention=1))
    for t in (1000, 900, 800):
        run.call(torch.ones(1, 2, 3, 1, 1), t)
    run.session.close()
    assert all(call.seconds > 0 for call in run.trace.calls())
    masks = [run.trace.active_mask(i).tolist() for i in range(3)]
    assert masks == [[True] * 3, [True, False, True], [False] * 3]
    assert run.decided == ["dense", "partial", "reuse"]
    assert [round(e.sigma, 6) for e in run.trace.evaluations] == [1.0, 0.9, 0.8]
    assert [e.active_share for e in run.trace.evaluations] == [1.0, 2 / 3, 0.0]


def test_only_the_first_reason_is_kept():
    trace = Trace({})
    trace.decline("first")
    trace.decline("second")
    assert trace.reason == "first"


def test_the_handle_gives_the_newest_finished_run():
    handle = TraceHandle()
    assert handle.latest is None
    traces = [Trace({}, model=str(i)) for i in range(10)]
    handle.runs.extend(traces)
    assert handle.latest is None
    traces[3].finished = traces[4].finished = True
    assert handle.latest is traces[4]
    assert len(handle.runs) == 8
