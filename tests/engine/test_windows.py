"""Context windows, experts that are swapped and noise that comes back, without a host."""

import functools
import json

import jsonschema
import pytest
import torch
from motioncache_pack.motioncache_core import (
    ContextWindow,
    MotionCacheSettings,
    RunFacts,
    SchedulePart,
)
from motioncache_pack.motioncache_core.cache.kv_bytes import KVBytes
from motioncache_pack.motioncache_core.cache.kv_placement import choose_placement
from motioncache_pack.motioncache_core.policy.chunk_state import ChunkState
from motioncache_pack.motioncache_core.report.report_json import as_json
from motioncache_pack.motioncache_core.report.report_text import text
from motioncache_pack.motioncache_core.report.timeline import cells, size
from motioncache_pack.tests.core.oracle import WholeClip
from motioncache_pack.tests.core.runs import Run, Steady, dictate, living_tensors
from motioncache_pack.tests.core.small_wan import TEXT_DIM, TEXT_TOKENS, small_wan
from motioncache_pack.tests.support.assert_close import assert_close

WINDOWS = (
    ContextWindow((0, 1, 2)),
    ContextWindow((2, 3, 4), anchor=1),
    ContextWindow((4, 5, 6), anchor=3),
)
SIDE, SPATIAL = 4, 4
SETTINGS = MotionCacheSettings(policy="chunk", warmup_steps=2, reuse_threshold=0.1)


def given(window, step):
    """Latents of a window in a step: the frames of one clip, cut out."""
    rng = torch.Generator().manual_seed(step)
    clip = torch.randn(1, 16, 7, SIDE, SIDE, generator=rng)
    anchor = [] if window.anchor is None else [window.anchor]
    return clip[:, :, [*anchor, *window.frames]]


def prompt(seed=0):
    return torch.randn(1, TEXT_TOKENS, TEXT_DIM, generator=torch.Generator().manual_seed(seed))


def windowed(settings=SETTINGS, windows=WINDOWS, **facts):
    return Run(small_wan(1, 2), settings, windows=windows, **facts)


def test_each_window_attends_to_its_own_stored_keys(monkeypatch):
    rows = [[1, 5], [0, 7, 12], [2, 3]]
    dictate(monkeypatch, *["dense"] * 3, *rows, *reversed(rows))
    run = windowed(MotionCacheSettings(dense_last=False, max_stale_steps=0))
    oracles = [WholeClip(small_wan(1, 2)) for _ in WINDOWS]
    for step, active in enumerate([[None] * 3, rows, list(reversed(rows))]):
        for i, window in enumerate(WINDOWS):
            x, t = given(window, step), torch.full((1,), 900.0 - 50 * step)
            chosen = list(range(window.length * SPATIAL)) if active[i] is None else active[i]
            wanted = oracles[i].call(x, t, prompt(), chosen)
            got = run.call(x, t, prompt(), window=window)
            assert_close(f"step {step}, window {i}", wanted, got)
    assert run.kinds == ["dense"] * 3 + ["partial"] * 6


def sampled_windows(run, steps=6):
    for step in range(steps):
        for window in WINDOWS:
            run.call(given(window, step), 900.0 - 50 * step, prompt(), window=window)


def test_records_report_and_timeline_tell_the_windows_apart(root):
    part = SchedulePart(0.0, 0.5, 1.0, 0.7)
    run = windowed(profile=Steady(0.06), part=part)
    before = living_tensors()
    sampled_windows(run)
    trace = run.trace
    assert [e.position for e in trace.evaluations] == [0, 1, 2] * 6
    assert {e.scope for e in trace.evaluations} == {"window 0", "window 1", "window 2"}
    assert (trace.clip_frames, trace.grid) == (7, (3, 2, 2))
    run.session.close()
    words = text(trace)
    for i in range(3):
        assert f"window {i}: DD.D.D" in words
    assert "Context windows: 3 of 3 latent frames, 2 of them with an anchor frame" in words
    assert "Schedule: 0% to 50%" in words
    found = json.loads(as_json(trace))
    schema = json.loads((root / "motioncache_core/report/report.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(found)
    assert found["windows"][2] == {"frames": [4, 5, 6], "anchor": 3}
    assert size(trace) == (3, 6)
    assert {(c.row, c.column) for c in cells(trace)} == {(r, c) for r in range(3) for c in range(6)}
    assert [k for k in living_tensors() if k not in before] == []


def test_masks_of_their_own_are_named_after_their_window():
    settings = MotionCacheSettings(policy="chunk", warmup_steps=2, cfg_mask="separate")
    run = windowed(settings)
    x = given(WINDOWS[1], 0)
    run.call(torch.cat((x, x)), 900, prompt().repeat(2, 1, 1), ("u", "c"), window=WINDOWS[1])
    assert [e.scope for e in run.trace.evaluations] == ["window 1, branch 0", "window 1, branch 1"]
    assert size(run.trace) == (2, 1)


def test_a_window_that_was_not_announced_passes_through():
    run = windowed(windows=WINDOWS[:2])
    x = given(WINDOWS[2], 0)
    got = run.call(x, 900, prompt(), window=WINDOWS[2])
    t = torch.full((1,), 900.0)
    assert torch.equal(got, small_wan(1, 2)(x, t, prompt()))
    assert "was not among those of the first step" in run.trace.reason
    run.call(given(WINDOWS[0], 0), 900, prompt(), window=WINDOWS[0])
    assert run.kinds == ["dense"]


@pytest.mark.parametrize("kv_cache", ["gpu", "gpu_fp8", "cpu"])
def test_bytes_of_all_windows_are_told_as_placed(kv_cache):
    settings = MotionCacheSettings(warmup_steps=2, kv_cache=kv_cache)
    run = windowed(settings, profile=Steady(0.06), branches=1)
    sampled_windows(run, 2)
    frames, blocks, width = 3 + 4 + 4, 2, 128
    numbers = frames * SPATIAL * width
    trace = run.trace
    assert trace.residual_bytes == 4 * numbers
    full = 2 * blocks * 4 * numbers
    coded = 2 * blocks * (numbers + 4 * frames * SPATIAL)
    kept = {"gpu": full, "gpu_fp8": coded, "cpu": full}[kv_cache]
    assert (trace.kv_host_bytes if kv_cache == "cpu" else trace.kv_bytes) == kept
    assert f"3 context windows together: {kept / 2**20:.0f} MiB" in trace.kv_reason


def test_what_is_read_at_once_is_one_window():
    x = torch.zeros(1, 16, 128)
    one, three = KVBytes.of(x, 10, 1, 128, 2), KVBytes.of(x, 10, 1, 128, 2, [12, 16, 16])
    assert three.full == one.full * 44 // 16
    assert three.quantized == one.quantized * 44 // 16
    assert three.largest == one.largest == one.full
    # half of the blocks in 8 bits, one block of one window read back, two to read the host's
    assert three.on_device(5) == 5 * three.quantized + 3 * one.full
    room = int(three.kept("gpu") / 0.8)
    assert set(choose_placement("auto", three, "motion", lambda: room + 9).tiers) == {"gpu"}
    assert set(choose_placement("auto", three, "motion", lambda: room - 9).tiers) == {"gpu_fp8"}


def test_residuals_that_do_not_fit_are_not_kept():
    asked = []
    numbers = 11 * SPATIAL * 128 * 4
    room = int(numbers / 0.6) - 8
    run = windowed(branches=1, free_memory=lambda: room, make_room=asked.append)
    run.call(given(WINDOWS[0], 0), 900, prompt(), window=WINDOWS[0])
    assert "residuals of 3 context windows do not fit" in run.trace.reason
    assert asked and asked[0] >= numbers / 0.6
    assert run.kinds == []


def test_a_window_of_one_frame_is_reused_as_a_whole():
    windows = (ContextWindow((0, 1)), ContextWindow((2,)))
    settings = MotionCacheSettings(
        warmup_steps=1, uniform_updates=0, reuse_threshold=0.1, agreement=0.0,
        min_update_ratio=0.0, motion_sensitivity=0.9, kv_cache="gpu",
    )  # fmt: skip
    run = windowed(settings, windows, profile=Steady(0.06))
    for step in range(8):
        for window in windows:
            run.call(given(window, step), 900.0 - 50 * step, prompt(), window=window)
    kinds = {i: [e.kind for e in run.trace.evaluations if e.position == i] for i in (0, 1)}
    assert "partial" in kinds[0]
    assert set(kinds[1]) == {"dense", "reuse"}
    # keys and values of 2 blocks, of the first window only
    assert run.trace.kv_bytes == 2 * 2 * 4 * (2 * SPATIAL * 128)


def test_one_decision_places_the_keys_of_all_windows():
    run = windowed(
        MotionCacheSettings(warmup_steps=2),
        branches=1,
        profile=Steady(0.06),
        # what is stored takes the memory that the decision counted on
        free_memory=lambda: 0 if run.trace.evaluations else 10**9,
    )
    sampled_windows(run, 2)
    assert run.trace.kv_bytes == 2 * 2 * 4 * (11 * SPATIAL * 128)
    assert "954 MiB free" in run.trace.kv_reason


def test_another_network_starts_afresh_and_keeps_one_state():
    run = Run(small_wan(1, 2), SETTINGS, profile=Steady(0.06))
    second = Run(twin(), SETTINGS)
    second.session = run.session
    x = given(WINDOWS[0], 0)
    for step in range(4):
        run.call(x, 900.0 - 50 * step, prompt())
    got = second.call(x, 600.0, prompt())
    assert torch.equal(got, twin()(x, torch.full((1,), 600.0), prompt()))
    second.call(x, 550.0, prompt())
    second.call(x, 500.0, prompt())
    assert run.kinds == ["dense", "dense", "reuse", "dense", "dense", "dense", "reuse"]
    assert run.trace.residual_bytes == 12 * 128 * 4
    assert len(run.trace.remarks) == 1


@functools.cache
def twin():
    """A network of the same sizes with other weights."""
    network = type(small_wan(1, 2)).from_state_dict(small_wan(1, 2).state_dict())
    for weight in network.parameters():
        weight.data = 1.1 * weight.data
    return network.eval()


def test_other_branches_on_another_network_are_no_hand_over():
    run = Run(small_wan(1, 2), SETTINGS, profile=Steady(0.06))
    second = Run(twin(), SETTINGS)
    second.session = run.session
    x = given(WINDOWS[0], 0)
    for step in range(4):
        run.call(x, 900.0 - 50 * step, prompt(), ("c",))
        second.call(x, 900.0 - 50 * step, prompt(), ("u",))
    assert run.kinds == [k for k in ("dense", "dense", "reuse", "dense") for _ in range(2)]
    assert run.trace.remarks == []


@pytest.mark.parametrize(
    "sigmas, last", [([1.0, 0.5, 0.0], 0.5), ([1.0, 0.5, 0.001], 0.5), ([1.0, 0.5, 0.2], None)]
)
def test_the_last_level_is_that_of_a_run_that_ends(sigmas, last):
    found = RunFacts(sigmas).last_sigma
    assert found == (None if last is None else pytest.approx(last, rel=1e-3))
    assert SchedulePart(0, 1, 1.0, sigmas[-1]).goes_on is (last is None)


@pytest.mark.parametrize(
    "before, now, restarts",
    [
        ((None, None), 1.0, False),
        ((0.5, None), 0.6, True),
        ((0.5, 0.7), 0.6, False),
        ((0.5, 0.7), 0.7, False),
        ((0.5, 0.7), 0.75, True),
        ((0.5, 0.7), 0.4, False),
        ((0.7, 0.5), 0.700001, False),
    ],
)
def test_only_a_level_above_the_last_two_is_new_noise(before, now, restarts):
    state = ChunkState(slice(0, 1), 1, torch.device("cpu"))
    state.sigma, state.sigma_before = before
    assert state.restarts_at(now) is restarts


@pytest.mark.parametrize("forecast", [0.0, 1.0])
def test_new_noise_is_computed_in_full_and_is_no_slope(forecast):
    settings = MotionCacheSettings(
        policy="chunk", warmup_steps=2, reuse_threshold=0.1, forecast=forecast
    )
    run = Run(small_wan(1, 2), settings, profile=Steady(0.06))
    levels = [900, 800, 700, 600, 500, 850, 750]
    outs = [run.call(given(WINDOWS[0], s), t, prompt()) for s, t in enumerate(levels)]
    phases = [e.chunks[0].phase for e in run.trace.evaluations]
    assert phases == ["warm-up"] * 2 + ["uniform"] * 3 + ["restart", "uniform"]
    assert run.kinds == ["dense", "dense", "reuse", "dense", "reuse", "dense", "reuse"]
    # one evaluation after the noise knows no slope: the residual is reused as it was
    x, t = given(WINDOWS[0], 6), torch.full((1,), 750.0)
    fresh = Run(small_wan(1, 2), MotionCacheSettings(policy="chunk", warmup_steps=1),
                profile=Steady(0.06))  # fmt: skip
    fresh.call(given(WINDOWS[0], 5), 850, prompt())
    assert_close("reused", fresh.call(x, t, prompt()), outs[-1])
