"""The trace counts what really ran."""

import pytest
import torch
from motioncache_pack.motioncache_core.report.trace import Trace, TraceHandle
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.runs import Run, Steady, dictate
from motioncache_pack.tests.core.small_wan import TEXT_DIM, TEXT_TOKENS, small_wan
from motioncache_pack.tests.support.toy_models import DoublingNet


@pytest.mark.parametrize(("split", "cfg_mask"), [(False, "shared"), (True, "separate")])
def test_counts_are_those_of_the_blocks(split, cfg_mask):
    network, counted = small_wan(), []
    hooks = [
        block.register_forward_pre_hook(
            lambda module, args, kwargs: counted.append(args[0].shape[0] * args[0].shape[1]),
            with_kwargs=True,
        )
        for block in network.blocks
    ]
    settings = MotionCacheSettings(
        warmup_steps=2, uniform_updates=1, reuse_threshold=0.1, cfg_mask=cfg_mask
    )
    run = Run(network, settings, profile=Steady(0.06))
    text = torch.randn(2, TEXT_TOKENS, TEXT_DIM)
    for step in range(10):
        x = torch.randn(2, 16, 3, 6, 6)
        if split:
            for i, name in enumerate("uc"):
                run.call(x[i : i + 1], 1000 - 90 * step, text[i : i + 1], (name,))
        else:
            run.call(x, 1000 - 90 * step, text, ("u", "c"))
    for hook in hooks:
        hook.remove()
    calls = run.trace.calls()
    assert len(calls) == (20 if split else 10)
    assert sum(c.blocks for c in calls) == len(counted)
    assert sum(c.blocks * c.computed * c.rows for c in calls) == sum(counted)
    assert {c.kind for c in calls} == {"dense", "partial", "reuse"}
    run.session.close()
    assert all(c.seconds > 0 for c in calls)
    assert run.trace.finished and run.trace.seconds > 0


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
