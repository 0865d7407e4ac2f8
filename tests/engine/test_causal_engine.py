"""Block-causal attention without reuse equals a mask over all frames, and costs what it should."""

from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core import ForcingOptions, MotionCacheSettings
from motioncache_pack.tests.core.causal_oracle import WORKING, Masked
from motioncache_pack.tests.core.causal_runs import (
    NETWORK,
    OFF,
    Film,
    apart,
    counted,
    poison,
    sampled,
)
from motioncache_pack.tests.core.kv_places import in_turn
from motioncache_pack.tests.core.runs import Steady
from motioncache_pack.tests.core.small_wan import small_wan
from motioncache_pack.tests.support.assert_close import assert_close

MOTION = MotionCacheSettings(
    warmup_steps=2,
    uniform_updates=1,
    reuse_threshold=0.1,
    min_update_ratio=0.0,
    agreement=0.0,
    motion_sensitivity=0.7,
)
# four steps each
WINDOWS = {
    "delay 1": ForcingOptions(2, 1),
    "delay 3": ForcingOptions(3, 3, "euler"),
    "all at once": ForcingOptions(2, 0),
    "one after the other": ForcingOptions(2, 4),
    "rolling": ForcingOptions(2, 2, window_frames=6),
    "rolling, just in time": ForcingOptions(1, 1, window_frames=4),
    "rolling, one after the other": ForcingOptions(2, 4, window_frames=4),
    "windows": ForcingOptions(2, 1, window_frames=6, overlap_frames=2),
}


PREFIXES = (0, 0.0), (3, 0.05)


@pytest.mark.parametrize(
    "window, prefix, noise, kept_in",
    in_turn(
        (w, *PREFIXES[i % 2]) for i, w in enumerate([*WINDOWS, "windows", "rolling", "delay 1"])
    ),
    indirect=["kept_in"],
)
def test_without_reuse_it_is_a_mask_over_all_frames(monkeypatch, window, prefix, noise, kept_in):
    poison(monkeypatch)
    # the last chunk is shorter, and so is each side of the last token
    options = replace(WINDOWS[window], condition_noise=noise)
    film = Film((7, 5, 5), prefix=prefix, options=options, seed=prefix)
    got, _ = sampled(film)
    assert_close("latents", film.sample(Masked(NETWORK).call), got)


@pytest.mark.parametrize(
    "window, heads, batch, kept_in",
    in_turn([("windows", 2, 2), ("delay 1", 3, 1), ("rolling", 1, 2), ("rolling", 2, 1)]),
    indirect=["kept_in"],
)
def test_heads_samples_and_split_calls_change_nothing(monkeypatch, window, heads, batch, kept_in):
    poison(monkeypatch)
    film = Film((7, 4, 4), batch, prefix=1, grouping=apart, options=WINDOWS[window])
    got, trace = sampled(film, network=small_wan(heads, 2))
    assert_close("latents", film.sample(Masked(small_wan(heads, 2)).call), got)
    assert {c.branches for c in trace.calls()} == {1}
    assert {c.rows for c in trace.calls()} == {batch}


ONE_FRAME = ForcingOptions(2, 1), ForcingOptions(1, 10, window_frames=1)


@pytest.mark.parametrize(
    "settings, options, kept_in",
    in_turn((s, o) for o in ONE_FRAME for s in (OFF, MOTION)),
    indirect=["kept_in"],
)
def test_a_clip_or_window_of_one_frame(settings, options, kept_in):
    film = Film((3 if options.window_frames else 1, 4, 6), steps=10, options=options)
    got, trace = sampled(film, settings, profile=Steady(0.06))
    if settings is not MOTION:
        assert_close("latents", film.sample(Masked(NETWORK).call), got)
    assert bool(torch.isfinite(got).all())
    assert trace.kv_bytes + trace.kv_host_bytes > 0


def computed_frames(film):
    """Frames that are denoised or cleaned in each iteration."""
    return [
        [n for n, s in zip(it.chunks, it.steps, strict=True) if s.role in WORKING]
        for it in film.schedule
    ]


@pytest.mark.parametrize("window, prefix", [(w, 3 * (i % 2)) for i, w in enumerate(WINDOWS)])
def test_unstarted_and_finished_chunks_cost_nothing(window, prefix):
    film = Film((7, 4, 4), prefix=prefix, options=WINDOWS[window])
    count, trace, _ = counted(film)
    wanted = [film.tokens * sum(frames) for frames in computed_frames(film)]
    assert count.rows == [[n] * 2 for n in wanted]
    assert [c.computed for c in trace.calls()] == wanted
    assert [c.needed for c in trace.calls()] == wanted
    assert {c.blocks for c in trace.calls()} == {2}
    assert [c.pairs for c in trace.calls()] == count.pairs
    assert [c.needed_pairs for c in trace.calls()] == count.pairs
    assert {c.kind for c in trace.calls()} == {"dense"}
    assert {c.note for c in trace.calls()} == {""}


@pytest.mark.parametrize("delay, prefix, given", [(1, 0, 0), (3, 4, 2), (4, 5, 2)])
def test_steps_and_one_clean_pass_for_all_but_the_last_chunk(delay, prefix, given):
    film = Film((8, 5, 6), prefix=prefix, options=ForcingOptions(2, delay))
    count, _, _ = counted(film)
    evaluations = (4 - given) * film.steps + given + (4 - given - 1)
    assert sum(rows[0] for rows in count.rows) == 2 * film.tokens * evaluations


@pytest.mark.parametrize("overlap", [0, 4])
def test_a_longer_clip_takes_the_same_memory_and_work_for_a_frame(overlap):
    window = ForcingOptions(2, 2, window_frames=8, overlap_frames=overlap)
    cost, size = [], []
    for frames in (24, 96):
        film = Film((frames, 2, 4), options=window)
        count, trace, _ = counted(film)
        rows, pairs = sum(rows[0] for rows in count.rows), sum(count.pairs)
        work = rows * trace.row_work + pairs * trace.pair_work
        cost.append((rows / frames, work / frames))
        size.append((trace.kv_bytes, trace.residual_bytes))
    assert size[0] == size[1]
    # two branches, two blocks, keys and values of 128 channels
    assert size[0][0] == 2 * 2 * 2 * 8 * film.tokens * 128 * 4
    for short, long in zip(*cost, strict=True):
        assert abs(long / short - 1) < 0.05


@pytest.mark.parametrize("attention", ["block_causal", "bidirectional"])
@pytest.mark.parametrize("window", [0, 6])
def test_the_trace_counts_what_runs_when_tokens_are_reused(attention, window):
    options = ForcingOptions(2, 4, attention=attention, window_frames=window)
    film = Film((7, 5, 6), steps=12, options=options)
    count, trace, _ = counted(film, MOTION, profile=Steady(0.06))
    calls = trace.calls()
    assert [c.computed for c in calls] == [rows[0] if rows else 0 for rows in count.rows]
    assert [c.blocks for c in calls] == [len(rows) for rows in count.rows]
    assert [c.pairs for c in calls] == count.pairs
    assert {c.kind for c in calls} == {"dense", "partial", "reuse"}
    assert any(0 < d.active < d.tokens for e in trace.evaluations for d in e.chunks)
    if attention == "block_causal":
        for call, frames in zip(calls, computed_frames(film), strict=True):
            assert call.needed == film.tokens * sum(frames)
