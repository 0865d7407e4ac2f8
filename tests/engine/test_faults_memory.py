"""The fault matrix: memory that runs out at every allocation that the pack makes, and memory that
fifty runs do not add to."""

from __future__ import annotations

import functools
import gc
import sys
import tracemalloc
from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core.cache import residual_placement as residual_place
from motioncache_pack.motioncache_core.engine.session import SPENT
from motioncache_pack.tests.core.faults import (
    SETTINGS,
    STEPS,
    Exhausted,
    kinds,
    nothing_is_kept,
    sampled,
)
from motioncache_pack.tests.core.runs import Run, Steady, living_tensors
from motioncache_pack.tests.support.assert_close import assert_same
from motioncache_pack.tests.support.toy_models import DoublingNet

PLACES = {place: replace(SETTINGS, kv_cache=place) for place in ("gpu", "gpu_fp8", "cpu")}
WAYS = {
    **PLACES,
    "masks of their own": replace(SETTINGS, cfg_mask="separate", motion_source="features"),
    "residuals in the host's memory": SETTINGS,
}


def facts(way):
    """Residuals go to the host where keys and values leave no room for them."""
    if way != "residuals in the host's memory":
        return {}
    # two branches, two blocks
    kv = 2 * 2 * 2 * 12 * 128 * 4
    return {"free_memory": lambda: int(kv / 0.8) + 1, "free_host_memory": lambda: 2**30}


@functools.cache
def plain(way):
    """Latents and allocation sites of an unhurt run."""
    with Exhausted() as memory:
        latents, _ = sampled(WAYS[way], **facts(way))
    return latents, memory.sites


@functools.cache
def first_seen():
    """For each way, numbers of the allocations at places in the code that neither a way before nor
    the toy reached, and of all that are as large as the clip: the first in a run, and the last."""
    known, chosen = {site for site in toy_run()[2] if not large(site)}, {}
    for way in WAYS:
        sites = plain(way)[1]
        new = [n for n, site in enumerate(sites) if site not in known]
        firsts, lasts = {sites[n]: n for n in reversed(new)}, {sites[n]: n for n in new}
        chosen[way] = sorted({*firsts.values(), *lasts.values()})
        known.update(sites)
    return chosen


def large(site):
    """Whether a place in the code makes tensors as large as the clip's tokens."""
    return any(part in site[0] for part in ("residual", "/kv", "evaluation", "_kv", "gather"))


def distance(got, wanted):
    return float((got - wanted).norm() / wanted.norm())


@functools.cache
def uncached():
    return sampled(replace(SETTINGS, reuse_threshold=0.0))[0]


@pytest.mark.parametrize("way", WAYS)
def test_out_of_memory_at_each_place_in_the_code(way):
    wanted, sites = plain(way)
    chosen, allowed = first_seen()[way], 1.5 * distance(wanted, uncached()) + 0.01
    assert chosen
    told = 0
    with nothing_is_kept():
        for n in chosen:
            with Exhausted(n) as memory:
                latents, trace = sampled(WAYS[way], **facts(way))
            assert len(memory.sites) > n and memory.sites[n] == sites[n]
            assert len(trace.evaluations) + len(trace.declined_calls) >= STEPS
            assert torch.isfinite(latents).all()
            assert distance(latents, uncached()) < allowed, sites[n]
            spoken = [c.note for c in trace.declined_calls], trace.kv_reason, trace.residual_reason
            told += "out of memory" in str(spoken)
        del latents
        assert_same("latents", wanted, sampled(WAYS[way], **facts(way))[0])
    # other allocations are made again where their own code can do it
    assert told > len(chosen) // 2


def toy_run(*fails):
    """A run of a network that costs next to nothing: its answers, and its allocations."""
    x = torch.arange(1.0, 17).reshape(1, 2, 2, 2, 2)
    settings = replace(SETTINGS, warmup_steps=1, dense_last=False)
    run = Run(DoublingNet(blocks=1, attention=1), settings, profile=Steady(0.06))
    answers = []
    try:
        with Exhausted(*fails) as memory:
            for step in range(6):
                answers.append(run.call(x + step, 1000 - 100 * step)[0])
    finally:
        run.session.close()
    return answers, run.trace, memory.sites


def test_out_of_memory_at_every_single_allocation():
    wanted, trace, sites = toy_run()
    assert set(kinds(trace)) == {"dense", "partial", "reuse"}
    assert len(sites) > 200
    before = living_tensors()
    for n, site in enumerate(sites):
        got, trace, seen = toy_run(n)
        assert seen[n] == site
        assert all(torch.isfinite(answer).all() for answer in got)
        assert torch.equal(got[0], wanted[0])
        assert {c.note for c in trace.declined_calls} <= {SPENT}
    del got
    new = [t for key, t in living_tensors().items() if key not in before]
    assert [t.shape for t in new if t.dtype != torch.uint8] == []
    again, _, _ = toy_run()
    assert all(torch.equal(a, b) for a, b in zip(wanted, again, strict=True))


def test_two_shortages_end_the_caching_and_not_the_run():
    wanted, sites = plain("gpu")
    deciding = [n for n, site in enumerate(sites) if "accumulate_due" in site[0]]
    with Exhausted(*range(deciding[0], len(sites))):
        latents, trace = sampled(WAYS["gpu"])
    assert kinds(trace)[-STEPS:].count("declined") == len(trace.declined_calls) > 2
    assert {c.note for c in trace.declined_calls} == {SPENT}
    assert distance(latents, uncached()) < distance(wanted, uncached())


def test_residuals_move_to_the_host_before_anything_is_lost(monkeypatch):
    wanted, _ = sampled()

    def short(like):
        if sum(like.shape) == 2 + 12 + 128:
            raise torch.OutOfMemoryError("simulated")
        return torch.zeros(like.shape)

    monkeypatch.setattr(residual_place.torch, "zeros_like", short)
    got, trace = sampled()
    assert_same("latents", wanted, got)
    assert trace.residual_bytes == 0
    assert trace.residual_host_bytes == 2 * 2 * 12 * 128 * 4
    assert "moved to the host's memory" in trace.residual_reason
    assert trace.declined_calls == []


def test_fifty_runs_in_a_row_add_nothing():
    def runs(count):
        for i in range(count):
            sampled(list(WAYS.values())[i % 4], size=((3, 4, 4), (2, 2, 4))[i % 2])
        gc.collect()
        # torch asks types for "__torch_function__" with a new string each time, and the
        # interpreter's cache of such questions keeps up to 4096 of them
        sys._clear_type_cache()

    runs(5)
    tensors = len(living_tensors())
    tracemalloc.start()
    try:
        runs(5)
        before, _ = tracemalloc.get_traced_memory()
        runs(40)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(living_tensors()) == tensors
    # a hundred bytes a run; a trace alone is larger than all of it
    assert after - before < 4_000
