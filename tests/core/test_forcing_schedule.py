"""The schedule of chunks: a plain loop and diffusers' step matrix are the references."""

import ast
import importlib.util
import math
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from motioncache_pack.motioncache_core.common.errors import SettingsError
from motioncache_pack.motioncache_core.sampling.options import ForcingOptions
from motioncache_pack.motioncache_core.sampling.schedule import (
    ACTIVE,
    CLEAN,
    DONE,
    UNSTARTED,
    forcing_schedule,
)

# frames, steps, chunk_frames, chunk_delay, prefix
CASES = [
    (25, 50, 5, 5, 0),
    (25, 50, 5, 5, 5),
    (25, 30, 5, 0, 0),
    (25, 30, 1, 0, 3),
    (21, 4, 3, 4, 0),
    (21, 4, 3, 9, 6),
    (23, 8, 5, 3, 0),
    (23, 8, 5, 3, 7),
    (7, 1, 2, 1, 0),
    (7, 1, 2, 0, 1),
    (1, 6, 5, 5, 0),
    (4, 6, 5, 2, 3),
    (13, 2, 1, 1, 12),
    (11, 5, 11, 2, 0),
]


def random_cases(count, seed=0):
    rng = random.Random(seed)
    for _ in range(count):
        frames = rng.randint(1, 40)
        steps = rng.randint(1, 20)
        yield frames, steps, rng.randint(1, 9), rng.randint(0, steps + 3), rng.randrange(frames)


ALL_CASES = CASES + list(random_cases(26))


def plain_loop(chunks, steps, delay, ready):
    """Evaluations of every chunk after each iteration, 0 to steps + 1, as a process in time."""
    counts = [steps + 1] * ready + [0] * (chunks - ready)
    rows = []
    while min(counts) < steps:
        row = []
        for j in range(chunks):
            free = j == 0 or counts[j - 1] >= steps
            now = counts[j] + 1 if free else row[j - 1] - delay
            row.append(min(max(now, 0), steps + 1))
        counts = row
        rows.append(row)
    return rows


def count_of(chunk, steps):
    if chunk.role == ACTIVE:
        return chunk.step + 1
    return {UNSTARTED: 0, CLEAN: steps + 1, DONE: steps + 1}[chunk.role]


@pytest.mark.parametrize(("frames", "steps", "size", "delay", "prefix"), ALL_CASES)
def test_the_schedule_is_what_a_plain_loop_makes(frames, steps, size, delay, prefix):
    schedule = forcing_schedule(frames, steps, ForcingOptions(size, delay), prefix)
    rows = plain_loop(math.ceil(frames / size), steps, delay, prefix // size)
    assert [[count_of(c, steps) for c in it.steps] for it in schedule] == rows
    for i, it in enumerate(schedule):
        assert (it.index, it.window, it.start, it.frames) == (i, 0, 0, frames)
        assert it.prefix == prefix


@pytest.mark.parametrize(("frames", "steps", "size", "delay", "prefix"), ALL_CASES)
def test_every_chunk_takes_each_step_once_and_is_clean_once(frames, steps, size, delay, prefix):
    schedule = forcing_schedule(frames, steps, ForcingOptions(size, delay), prefix)
    ready = prefix // size
    chunks = list(zip(*(it.steps for it in schedule), strict=True))
    for j, life in enumerate(chunks):
        roles = Counter(c.role for c in life)
        taken = [c.step for c in life if c.role == ACTIVE]
        assert taken == (list(range(steps)) if j >= ready else [])
        assert roles[CLEAN] <= 1
        order = [UNSTARTED, ACTIVE, CLEAN, DONE]
        places = [order.index(c.role) for c in life]
        assert places == sorted(places)
        assert all(c.step == -1 for c in life if c.role != ACTIVE)
    assert all(life[0].role == CLEAN for life in chunks[:ready])
    lag = min(delay, steps)
    assert len(schedule) == steps + (len(chunks) - ready - 1) * lag
    # with a lag a chunk is finished before the run ends, unless it is the last
    cleaned = [any(c.role == CLEAN for c in life) for life in chunks[ready:]]
    assert cleaned == [lag > 0] * (len(cleaned) - 1) + [False]


def test_chunks_cover_the_input_and_the_last_may_be_shorter():
    it = forcing_schedule(13, 2, ForcingOptions(5, 1))[0]
    assert it.chunks == (5, 5, 3)
    assert it.chunk_frames() == [slice(0, 5), slice(5, 10), slice(10, 13)]


def test_a_prefix_that_ends_inside_a_chunk_leaves_it_active():
    schedule = forcing_schedule(15, 3, ForcingOptions(5, 1), prefix=7)
    assert [c.role for c in schedule[0].steps] == [CLEAN, ACTIVE, UNSTARTED]
    assert schedule[0].prefix == 7
    assert [c.role for c in schedule[1].steps] == [DONE, ACTIVE, ACTIVE]


# frames, window, overlap, prefix -> (start, end, given) of each window
WINDOWS = [
    (25, 25, 5, 0, [(0, 25, 0)]),
    (45, 25, 5, 0, [(0, 25, 0), (20, 45, 5)]),
    (46, 25, 5, 3, [(0, 25, 3), (20, 45, 5), (40, 46, 5)]),
    (60, 20, 10, 17, [(0, 20, 17), (10, 30, 10), (20, 40, 10), (30, 50, 10), (40, 60, 10)]),
    # the clip's own prefix covers the first window and reaches into the second
    (45, 25, 5, 27, [(20, 45, 7)]),
    (45, 25, 5, 25, [(20, 45, 5)]),
]


@pytest.mark.parametrize(("frames", "window", "overlap", "prefix", "expected"), WINDOWS)
def test_windows_that_follow_each_other(frames, window, overlap, prefix, expected):
    options = ForcingOptions(5, 2, window_frames=window, overlap_frames=overlap)
    schedule = forcing_schedule(frames, 4, options, prefix)
    assert [it.index for it in schedule] == list(range(len(schedule)))
    seen = dict.fromkeys((it.window, it.start, it.start + it.frames, it.prefix) for it in schedule)
    assert list(seen) == [(w, *where) for w, where in enumerate(expected)]
    alone = [forcing_schedule(end - start, 4, options, given) for start, end, given in expected]
    assert [it.steps for it in schedule] == [it.steps for part in alone for it in part]


def rolling_cases(count, seed=1):
    """frames, steps, size, delay, window chunks, prefix, of whole chunks"""
    rng = random.Random(seed)
    for _ in range(count):
        size, chunks = rng.randint(1, 6), rng.randint(3, 14)
        visible, steps = rng.randint(1, chunks - 1), rng.randint(1, 20)
        delay = rng.randint(math.ceil(steps / visible), steps + 2)
        ready = rng.randint(0, visible)
        yield chunks * size, steps, size, delay, visible, ready * size


@pytest.mark.parametrize(
    ("frames", "steps", "size", "delay", "visible", "prefix"), list(rolling_cases(20))
)
def test_a_rolling_window_holds_every_chunk_for_its_whole_life(
    frames, steps, size, delay, visible, prefix
):
    options = ForcingOptions(size, delay, window_frames=visible * size)
    schedule = forcing_schedule(frames, steps, options, prefix)
    whole = forcing_schedule(frames, steps, ForcingOptions(size, delay), prefix)
    assert len(schedule) == len(whole)
    for it, full in zip(schedule, whole, strict=True):
        first = it.start // size
        assert it.window == 0
        assert it.steps == full.steps[first : first + visible]
        assert it.prefix == max(prefix - it.start, 0)
        # what is left behind is finished, what lies ahead has not started
        assert all(c.role in (CLEAN, DONE) for c in full.steps[:first])
        assert all(c.role == UNSTARTED for c in full.steps[first + visible :])
    starts = [it.start for it in schedule]
    assert starts == sorted(starts)


def test_a_rolling_window_over_a_longer_prefix_and_a_short_last_chunk():
    options = ForcingOptions(4, 3, window_frames=8)
    schedule = forcing_schedule(30, 5, options, prefix=18)
    # four chunks are given, the fifth in part: it is the first to start
    assert (schedule[0].start, schedule[0].chunks, schedule[0].prefix) == (12, (4, 4), 6)
    assert [c.role for c in schedule[0].steps] == [CLEAN, ACTIVE]
    last = schedule[-1]
    assert (last.start, last.chunks, last.prefix) == (24, (4, 2), 0)


# a window as long as the clip is no window
@pytest.mark.parametrize("overlap", [0, 5])
@pytest.mark.parametrize("window", [15, 20])
def test_a_window_that_holds_the_clip_changes_nothing(window, overlap):
    options = ForcingOptions(5, 1, window_frames=window, overlap_frames=overlap)
    assert forcing_schedule(13, 9, options) == forcing_schedule(13, 9, ForcingOptions(5, 1))


@pytest.mark.parametrize(
    ("frames", "steps", "prefix", "changes", "words"),
    [
        (10, 4, 10, {}, "nothing to sample"),
        (10, 4, 11, {}, "nothing to sample"),
        (10, 4, -1, {}, "prefix is -1"),
        (0, 4, 0, {}, "0 latent frames"),
        (10, 0, 0, {}, "0 denoising steps"),
        (40, 50, 0, {"window_frames": 25}, "at least 10"),
        (40, 50, 0, {"window_frames": 25, "chunk_delay": 0}, "at least 10"),
        (257, 4, 0, {"window_frames": 25}, "257 latent frames"),
    ],
)
def test_what_cannot_be_scheduled_is_refused(frames, steps, prefix, changes, words):
    with pytest.raises(SettingsError, match=words):
        forcing_schedule(frames, steps, ForcingOptions(**changes), prefix)


def test_the_longest_clip_that_rolls_and_a_longer_one_in_windows():
    last = forcing_schedule(256, 4, ForcingOptions(window_frames=25))[-1]
    assert last.start + last.frames == 256
    options = ForcingOptions(window_frames=25, overlap_frames=5)
    last = forcing_schedule(1001, 4, options)[-1]
    assert last.start + last.frames == 1001


@pytest.fixture(scope="module")
def pipeline():
    """Two methods of the pipeline, without its module, which needs transformers."""
    found = importlib.util.find_spec("diffusers")
    if found is None:
        pytest.skip("diffusers is not installed: pip install -r tests/requirements.txt")
    path = Path(found.origin).with_name("pipelines") / "skyreels_v2"
    source = (path / "pipeline_skyreels_v2_diffusion_forcing.py").read_text(encoding="utf-8")
    methods = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
        and node.name in ("generate_timestep_matrix", "prepare_latents")
    ]
    names = {"torch": torch, "math": math, "randn_tensor": lambda shape, **_: torch.zeros(shape)}
    exec(compile(ast.Module(methods, []), str(path), "exec"), names)
    return SimpleNamespace(**names)


def diffusers_matrix(pipeline, frames, base, steps, size, delay, prefix):
    # distinct timesteps, so that equal matrices mean equal steps
    template = torch.arange(steps, 0, -1) + 100
    matrix, index, mask, intervals = pipeline.generate_timestep_matrix(
        None, frames, template, base, delay, prefix, size
    )
    return template.tolist(), matrix.tolist(), index.tolist(), mask.tolist(), intervals


def per_frame(it, value):
    return [value(c) for n, c in zip(it.chunks, it.steps, strict=True) for _ in range(n)]


def whole_chunk_cases():
    for frames, steps, size, delay, prefix in ALL_CASES:
        chunks = math.ceil(frames / size)
        yield chunks * size, steps, size, delay, chunks, prefix // size * size


@pytest.mark.parametrize(
    ("frames", "steps", "size", "delay", "visible", "prefix"),
    [*whole_chunk_cases(), *rolling_cases(20)],
)
def test_the_schedule_is_diffusers_step_matrix(
    pipeline, frames, steps, size, delay, visible, prefix
):
    template, matrix, index, mask, intervals = diffusers_matrix(
        pipeline, frames, visible * size, steps, size, delay, prefix
    )
    options = ForcingOptions(size, delay, window_frames=visible * size)
    schedule = forcing_schedule(frames, steps, options, prefix)
    # what diffusers calls unstarted is timestep 999
    timestep = {UNSTARTED: 999, CLEAN: 0, DONE: 0}
    assert [(it.start, it.start + it.frames) for it in schedule] == intervals
    for it, times, counts, updates in zip(schedule, matrix, index, mask, strict=True):
        seen = slice(it.start, it.start + it.frames)
        assert per_frame(it, lambda c: count_of(c, steps)) == counts[seen]
        assert per_frame(it, lambda c: c.role == ACTIVE) == updates[seen]
        assert not any(updates[: seen.start] + updates[seen.stop :])
        told = per_frame(it, lambda c: template[c.step] if c.role == ACTIVE else timestep[c.role])
        assert told == times[seen]


@pytest.mark.parametrize(
    ("frames", "window", "overlap"),
    [(45, 25, 5), (46, 25, 10), (50, 25, 5), (61, 20, 15), (26, 25, 5), (100, 30, 10)],
)
def test_windows_have_the_frames_that_diffusers_gives_them(pipeline, frames, window, overlap):
    # one pixel of space and one channel: only the number of frames is looked at
    stub = SimpleNamespace(vae_scale_factor_temporal=4, vae_scale_factor_spatial=1)
    pixels = 4 * (frames - 1) + 1
    expected, clip = [], None
    while clip is None or clip.shape[2] < frames:
        latents, count, _, given_frames = pipeline.prepare_latents(
            stub, 1, 1, 1, 1, pixels, torch.float32, torch.device("cpu"), None, None,
            window, clip, 5, overlap, len(expected),
        )  # fmt: skip
        expected.append((count, given_frames))
        clip = latents if clip is None else torch.cat((clip, latents[:, :, overlap:]), dim=2)
    options = ForcingOptions(5, 3, window_frames=window, overlap_frames=overlap)
    schedule = forcing_schedule(frames, 4, options)
    seen = dict.fromkeys((it.window, it.frames, it.prefix) for it in schedule)
    assert [(count, given) for _, count, given in seen] == expected
