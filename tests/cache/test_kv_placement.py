"""Where keys and values go: by setting, by free memory on the device and on the host."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from motioncache_pack.motioncache_core import MotionCacheSettings, SettingsError
from motioncache_pack.motioncache_core.cache import kv_placement as kv_place
from motioncache_pack.motioncache_core.cache.kv_bytes import KVBytes, usable
from motioncache_pack.motioncache_core.cache.kv_placement import (
    choose_causal_placement,
    choose_placement,
)
from motioncache_pack.tests.core.runs import Run, Steady
from motioncache_pack.tests.core.small_wan import CASES
from motioncache_pack.tests.support.assert_close import assert_close

MIB = 2**20
# 10 blocks of 10 MiB, of 6 MiB in 8 bits
NEED = KVBytes(10, 10 * MIB, 6 * MIB)
# slopes take as much again
WITH_SLOPES = replace(NEED, forecast=True)


def free(mib):
    return None if mib is None else lambda: mib * MIB


@pytest.mark.parametrize(
    "kv_cache, policy, device, chunks, store, reason",
    [
        ("auto", "motion", None, 1, True, "100 MiB on the model's device"),
        ("auto", "motion", 125, 1, True, "100 MiB of 125 MiB free"),
        ("auto", "random", 125, 1, True, "100 MiB of 125 MiB free"),
        ("gpu", "motion", 1, 1, True, "100 MiB on the model's device"),
        ("off", "motion", 500, 1, False, "kv_cache is off"),
        ("gpu", "chunk", 500, 1, False, "policy 'chunk' has no partial evaluations"),
        ("gpu", "step", 500, 1, False, "policy 'step' has no partial evaluations"),
        ("auto", "chunk", 125, 2, True, "100 MiB of 125 MiB free"),
        ("off", "chunk", 500, 2, False, "kv_cache is off"),
    ],
)
def test_whether_keys_and_values_are_kept(kv_cache, policy, device, chunks, store, reason):
    placed = choose_placement(kv_cache, NEED, policy, free(device), chunks=chunks)
    assert placed.store is store
    assert placed.tiers == (("gpu",) * 10 if store else ())
    assert placed.nbytes == (100 * MIB if store else 0)
    assert reason in placed.reason


@pytest.mark.parametrize(
    "device, host, places, kept, reason",
    [
        (125, 0, {"gpu": 10}, 100, "100 MiB of 125 MiB free"),
        # 60 MiB, and a block of 10 MiB read back, in 0.8 of what is free
        (
            124,
            0,
            {"gpu_fp8": 10},
            60,
            "60 MiB in 8 bits of 124 MiB free; exact, 100 MiB, 124 MiB are",
        ),
        (88, 0, {"gpu_fp8": 10}, 60, "60 MiB in 8 bits of 88 MiB free"),
        # 30 MiB to read with and 6 for each block; the others in 0.6 of what the host has free
        (87, 67, {"gpu_fp8": 6, "cpu": 4}, 76, "6 of 10 blocks in 8 bits, 36 MiB of 87 MiB free"),
        (87, 67, {"gpu_fp8": 6, "cpu": 4}, 76, "the others 40 MiB of 67 MiB free in the host's"),
        (46, 150, {"gpu_fp8": 1, "cpu": 9}, 96, "1 of 10 blocks in 8 bits, 6 MiB of 46 MiB free"),
        (44, 167, {"cpu": 10}, 100, "100 MiB of 167 MiB free in the host's memory"),
        (25, 167, {"cpu": 10}, 100, "100 MiB of 167 MiB free in the host's memory"),
        (87, None, {}, 0, "keys and values need 100 MiB, 87 MiB are free: whole chunks"),
        (87, 66, {}, 0, "100 MiB, 87 MiB are free, 66 MiB in the host's memory: whole chunks"),
        (24, 1000, {}, 0, "100 MiB, 24 MiB are free, 1000 MiB in the host's memory: whole"),
    ],
)
def test_what_does_not_fit_goes_one_place_down(device, host, places, kept, reason):
    placed = choose_placement("auto", NEED, "motion", free(device), free(host))
    assert (Counter(placed.tiers), placed.store) == (places, bool(places))
    assert placed.nbytes == kept * MIB
    assert reason in placed.reason


def test_blocks_on_the_host_lie_as_far_apart_as_they_can():
    for quantized in range(11):
        places = kv_place._spread(10, quantized)
        assert places.count("gpu_fp8") == quantized
        assert places.count("cpu") == 10 - quantized
        rare = min(("gpu_fp8", "cpu"), key=places.count)
        at = [i for i, p in enumerate(places) if p == rare]
        gaps = {b - a for a, b in pairwise(at)}
        assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_the_host_is_asked_for_room_first():
    free, asked = [50 * MIB], []

    def make_room(nbytes):
        asked.append(nbytes)
        free[0] = 125 * MIB

    for _ in range(2):
        placed = choose_placement("auto", NEED, "motion", lambda: free[0], None, make_room)
        assert placed.tiers == ("gpu",) * 10
    assert asked == [125 * MIB + 1]


def test_a_place_that_is_asked_for_is_taken_whatever_is_free():
    for kv_cache, kept in (("gpu", 100), ("gpu_fp8", 60), ("cpu", 100)):
        placed = choose_placement(kv_cache, NEED, "motion", free(1), free(1))
        assert placed.tiers == (kv_cache,) * 10
        assert placed.nbytes == kept * MIB
        assert f"{kept} MiB" in placed.reason


@pytest.mark.parametrize("choose", [choose_placement, choose_causal_placement])
def test_a_place_that_the_device_lacks_is_refused(choose):
    need = KVBytes(10, 10 * MIB, 6 * MIB, usable(torch.device("mps"), torch.float16))
    more = ("motion",) if choose is choose_placement else ()
    for kv_cache in ("gpu_fp8", "cpu"):
        with pytest.raises(SettingsError, match=f"kv_cache is '{kv_cache}'.*Use one of these"):
            choose(kv_cache, need, *more, None)
    assert set(choose("auto", need, *more, free(200)).tiers) == {"gpu"}
    assert usable(torch.device("cuda"), torch.float64) == ("gpu", "cpu")


@pytest.mark.parametrize(
    "kv_cache, device, host, places, reason",
    [
        ("auto", None, None, {"gpu"}, "100 MiB on the model's device, at most; block-causal"),
        ("off", 125, None, {"gpu"}, "100 MiB of 125 MiB free, at most; block-causal"),
        ("auto", 90, None, {"gpu_fp8"}, "60 MiB in 8 bits"),
        ("auto", 60, 500, {"gpu_fp8", "cpu"}, "blocks in 8 bits"),
        ("auto", 30, 500, {"cpu"}, "in the host's memory"),
        ("auto", 30, None, {"gpu_fp8"}, "set window_frames or kv_keep if memory runs out"),
        ("cpu", 500, None, {"cpu"}, "100 MiB in the host's memory at most; block-causal"),
    ],
)
def test_block_causal_attention_always_keeps_them(kv_cache, device, host, places, reason):
    placed = choose_causal_placement(kv_cache, NEED, free(device), free(host))
    assert set(placed.tiers) == places
    assert len(placed.tiers) == 10
    assert reason in placed.reason


@pytest.mark.parametrize(
    "kv_cache, device, where, forecast_, kept, reason",
    [
        ("auto", None, "gpu", True, 200, "200 MiB on the model's device, half of it for their"),
        ("auto", 269, "gpu", True, 200, "200 MiB of 269 MiB free, half of it for their forecast"),
        ("auto", 268, "gpu_fp8", True, 120, "120 MiB in 8 bits of 268 MiB free, half of it"),
        ("auto", 194, "gpu_fp8", True, 120, "120 MiB in 8 bits of 194 MiB free, half of it"),
        ("auto", 193, "gpu", False, 100, "no forecast of them, which takes 215 MiB or 155 MiB"),
        ("auto", 100, "gpu_fp8", False, 60, "no forecast of them, which takes 215 MiB or 155 MiB"),
        ("auto", 44, "cpu", False, 100, "no forecast of them, which takes 215 MiB or 155 MiB"),
        ("gpu", 1, "gpu", True, 200, "200 MiB on the model's device, half of it"),
        ("gpu_fp8", 1, "gpu_fp8", True, 120, "in 8 bits, half of it for their forecast"),
        ("cpu", 500, "cpu", False, 100, "they are not forecast, as they have to be on the model's"),
    ],
)
def test_where_slopes_go(kv_cache, device, where, forecast_, kept, reason):
    given = free(device), free(1000)
    for placed in (
        choose_placement(kv_cache, WITH_SLOPES, "motion", *given),
        choose_causal_placement(kv_cache, WITH_SLOPES, *given),
    ):
        assert placed.tiers == (where,) * 10
        assert (placed.forecast, placed.nbytes) == (forecast_, kept * MIB)
        assert reason in placed.reason


def test_where_nothing_fits_block_causal_attention_keeps_no_slopes():
    placed = choose_causal_placement("auto", WITH_SLOPES, free(1), free(1))
    assert (placed.store, placed.forecast, placed.nbytes) == (True, False, 60 * MIB)


@pytest.mark.parametrize(
    "kv_cache, spare", [("auto", 1), ("auto", -1), ("gpu_fp8", 1), ("cpu", -1)]
)
def test_the_estimate_is_what_is_kept_in_the_end(spare, kv_cache):
    case = CASES["text to video"]
    # keys and values of 3 blocks for 2 branches; 0.8 of the free memory may be taken
    full = 2 * 3 * 2 * case.tokens * 256 * 4
    coded = 2 * 3 * 2 * case.tokens * (256 + 2 * 4)
    settings = MotionCacheSettings(dense_last=False, max_stale_steps=0, kv_cache=kv_cache)
    run = Run(case.network(), settings, free_memory=lambda: int(full / 0.8) + spare)
    x, t, context, _ = case.inputs(0)
    for name in ("u", "c"):
        run.call(x, t, context, (name,))
    place = {"auto": "gpu" if spare > 0 else "gpu_fp8"}.get(kv_cache, kv_cache)
    # two slots for a block of the branch that is called
    slots = 2 * 2 * case.tokens * 256 * 4
    kept = {"gpu": (full, 0), "gpu_fp8": (coded, 0), "cpu": (slots, full)}[place]
    assert (run.trace.kv_bytes, run.trace.kv_host_bytes) == kept


def test_too_little_memory_falls_back_to_whole_chunks_and_says_so():
    settings = MotionCacheSettings(warmup_steps=1, uniform_updates=0, reuse_threshold=0.1)
    case = CASES["text to video"]
    run = Run(case.network(), settings, profile=Steady(0.06), free_memory=lambda: 1024)
    for seed in range(3):
        x, t, context, _ = case.inputs(seed)
        wanted = case.network()(x, t, context)
        got = run.call(x, t, context)
        if run.kinds[-1] == "dense":
            assert_close("output", wanted, got)
    assert run.kinds == ["dense", "reuse", "dense"]
    assert "whole chunks are reused or computed" in run.trace.kv_reason
