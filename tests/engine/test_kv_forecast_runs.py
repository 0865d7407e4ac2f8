"""Runs that forecast keys and values: attention sees ones that are closer to the true ones."""

from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core import ForcingOptions, MotionCacheSettings
from motioncache_pack.tests.core.causal_runs import Film, apart, sampled, together
from motioncache_pack.tests.core.runs import Run, Steady, dictate
from motioncache_pack.tests.core.small_wan import CASES
from motioncache_pack.tests.support.assert_close import assert_close, assert_same

PLAIN = MotionCacheSettings(dense_last=False, max_stale_steps=0, kv_cache="gpu")


def distance(got, wanted):
    return float((got - wanted).norm() / wanted.norm())


def keys_of(settings, case, decisions, monkeypatch):
    """Keys that the first block's self-attention saw in every call of a gently changing clip."""
    seen = []

    def spy(func, q, k, v, *args, **kwargs):
        seen.append(k.clone())
        return func(q, k, v, *args, **kwargs)

    run = Run(case.network(), settings)
    dictate(monkeypatch, *decisions)
    x, _, context, more = case.inputs(0)
    rng = torch.Generator().manual_seed(3)
    change = torch.randn(x.shape, generator=rng)
    options = {"optimized_attention_override": spy}
    firsts = []
    # the timestep's fastest frequency turns by a radian a unit
    for i in range(len(decisions)):
        at = len(seen)
        run.call(x + 0.02 * i * change, 500.0 - 0.05 * i, context, options=options, **more)
        firsts.append(seen[at])
    run.session.close()
    return firsts, run.trace


@pytest.mark.parametrize("name", ["image to video", "two samples"])
def test_in_a_run_attention_sees_keys_close_to_the_true_ones(monkeypatch, name):
    case, rows = CASES[name], [0, 5, 17, 20]
    decisions = ["dense", "dense", rows]
    true, _ = keys_of(PLAIN, case, ["dense"] * 3, monkeypatch)
    stale, without = keys_of(PLAIN, case, decisions, monkeypatch)
    got, trace = keys_of(replace(PLAIN, kv_forecast=1.0), case, decisions, monkeypatch)
    assert_close("active rows", true[2][:, rows], got[2][:, rows])
    assert distance(got[2], true[2]) < 0.2 * distance(stale[2], true[2])
    # slopes of all blocks, and zeros as large as a block's keys
    assert trace.kv_bytes == without.kv_bytes * 2 + true[2].nbytes


def test_a_gain_below_one_goes_part_of_the_way(monkeypatch):
    case, rows = CASES["one head"], [3]
    seen = [
        keys_of(replace(PLAIN, kv_forecast=g), case, ["dense", "dense", rows], monkeypatch)[0][2]
        for g in (0.0, 0.5, 1.0)
    ]
    assert_close("half way", (seen[0] + seen[2]) / 2, seen[1])
    assert distance(seen[1], seen[0]) > 1e-4


def test_where_nothing_is_partial_the_setting_changes_nothing(monkeypatch):
    case = CASES["one head"]
    decisions = ["dense", "reuse", "dense", "reuse"]
    outputs = []
    for gain in (0.0, 1.0):
        dictate(monkeypatch, *decisions)
        run = Run(case.network(), MotionCacheSettings(dense_last=False, kv_forecast=gain))
        outputs.append([run.call(*case.inputs(i)[:3]) for i in range(4)])
        run.session.close()
    for i, (a, b) in enumerate(zip(*outputs, strict=True)):
        assert_same(f"call {i}", a, b)


def test_a_run_says_what_it_forecasts(monkeypatch):
    case = CASES["one head"]
    dictate(monkeypatch, "dense")
    run = Run(case.network(), MotionCacheSettings(kv_forecast=1.0, kv_cache="cpu"))
    run.call(*case.inputs(0)[:3])
    run.session.close()
    assert "they are not forecast" in run.trace.kv_reason


FILMS = {
    "clip": ForcingOptions(2, 2),
    "bidirectional": ForcingOptions(2, 2, attention="bidirectional"),
    "compressed": ForcingOptions(2, 2, kv_keep=1),
    "rolling, compressed": ForcingOptions(2, 4, window_frames=6, kv_keep=1),
}


@pytest.mark.parametrize(
    "name, grouping", [(name, (together, apart)[i % 2]) for i, name in enumerate(FILMS)]
)
def test_diffusion_forcing_that_computes_everything_is_not_changed(name, grouping):
    # finished chunks stay as they were left, and rows are at other places of the store than
    # of the clip
    film = Film((9, 4, 4), steps=10, options=FILMS[name], grouping=grouping)
    dense = replace(PLAIN, warmup_steps=100)
    wanted, _ = sampled(film, dense)
    got, trace = sampled(film, replace(dense, kv_forecast=1.0))
    assert_same("latents", wanted, got)
    if name != "bidirectional":
        assert trace.kv_bytes > sampled(film, dense)[1].kv_bytes


@pytest.mark.parametrize("name", FILMS)
def test_keys_and_values_of_reused_chunks_are_forecast_for_the_others(name):
    film = Film((9, 4, 4), steps=10, options=FILMS[name])
    # chunks differ in when they are computed
    settings = MotionCacheSettings(
        policy="chunk", warmup_steps=3, reuse_threshold=0.1, max_stale_steps=0, kv_cache="gpu"
    )
    both = [sampled(film, replace(settings, kv_forecast=g), profile=Steady(0.06)) for g in (0, 1.0)]
    assert [c.kind for c in both[0][1].calls()] == [c.kind for c in both[1][1].calls()]
    assert all(x.isfinite().all() for x, _ in both)
    assert distance(both[1][0], both[0][0]) > 1e-5
