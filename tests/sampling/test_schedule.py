"""The schedule of chunks: a plain loop and diffusers' step matrix are the references."""

import ast
import importlib.util
import math
import random
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
    ChunkStep,
    forcing_schedule,
)

# frames, steps, chunk_frames, chunk_delay, prefix
CASES = [
    (25, 50, 5, 5, 0), (25, 50, 5, 5, 5), (25, 30, 5, 0, 0), (25, 30, 1, 0, 3), (21, 4, 3, 4, 0),
    (21, 4, 3, 9, 6), (23, 8, 5, 3, 0), (23, 8, 5, 3, 7), (7, 1, 2, 1, 0), (7, 1, 2, 0, 1),
    (1, 6, 5, 5, 0), (4, 6, 5, 2, 3), (13, 2, 1, 1, 12), (11, 5, 11, 2, 0),
]  # fmt: skip


def random_cases(count, seed=0):
    rng = random.Random(seed)
    for _ in range(count):
        frames, steps = rng.randint(1, 40), rng.randint(1, 20)
        yield frames, steps, rng.randint(1, 9), rng.randint(0, steps + 3), rng.randrange(frames)


def rolling_cases(count=20, seed=1):
    """Whole chunks and how many of them a window holds: frames, steps, size, delay, prefix, held"""
    rng = random.Random(seed)
    for _ in range(count):
        size, chunks = rng.randint(1, 6), rng.randint(3, 14)
        held, steps = rng.randint(1, chunks - 1), rng.randint(1, 20)
        delay = rng.randint(math.ceil(steps / held), steps + 2)
        yield chunks * size, steps, size, delay, rng.randint(0, held) * size, held


ALL_CASES = [*CASES, *random_cases(26)]


def plain_loop(chunks, steps, delay, ready):
    """What every chunk does in each iteration: a process in time that counts evaluations."""
    counts = [steps] * ready + [0] * (chunks - ready)
    while min(counts) < steps:
        now, row = [], []
        for j, before in enumerate(counts):
            free = j == 0 or counts[j - 1] >= steps
            count = min(max(before + 1 if free else now[j - 1] - delay, 0), steps + 1)
            role = CLEAN if before == steps else DONE
            if count <= steps:
                role = ACTIVE if count else UNSTARTED
            row.append(ChunkStep(role, count - 1 if role == ACTIVE else -1))
            now.append(count)
        counts = now
        yield tuple(row)


def test_the_schedule_is_what_a_plain_loop_makes():
    for case in ALL_CASES:
        frames, steps, size, delay, prefix = case
        schedule = forcing_schedule(frames, steps, ForcingOptions(size, delay), prefix)
        wanted = list(plain_loop(math.ceil(frames / size), steps, delay, prefix // size))
        assert [it.steps for it in schedule] == wanted, case
        told = [(it.index, it.window, it.start, it.frames, it.prefix) for it in schedule]
        assert told == [(i, 0, 0, frames, prefix) for i in range(len(wanted))], case


def test_chunks_cover_the_input_and_the_last_may_be_shorter():
    it = forcing_schedule(13, 2, ForcingOptions(5, 1))[0]
    assert it.chunks == (5, 5, 3)
    assert it.chunk_frames() == [slice(0, 5), slice(5, 10), slice(10, 13)]


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


def test_windows_that_follow_each_other():
    for frames, window, overlap, prefix, expected in WINDOWS:
        options = ForcingOptions(5, 2, window_frames=window, overlap_frames=overlap)
        schedule = forcing_schedule(frames, 4, options, prefix)
        assert [it.index for it in schedule] == list(range(len(schedule)))
        told = ((it.window, it.start, it.start + it.frames, it.prefix) for it in schedule)
        assert list(dict.fromkeys(told)) == [(w, *where) for w, where in enumerate(expected)]
        alone = [forcing_schedule(end - start, 4, options, given) for start, end, given in expected]
        assert [it.steps for it in schedule] == [it.steps for part in alone for it in part]


def test_a_rolling_window_holds_every_chunk_for_its_whole_life():
    for case in rolling_cases():
        frames, steps, size, delay, prefix, held = case
        options = ForcingOptions(size, delay, window_frames=held * size)
        schedule = forcing_schedule(frames, steps, options, prefix)
        whole = forcing_schedule(frames, steps, ForcingOptions(size, delay), prefix)
        for it, full in zip(schedule, whole, strict=True):
            first = it.start // size
            assert it.window == 0
            assert it.steps == full.steps[first : first + held], case
            assert it.prefix == max(prefix - it.start, 0)
            # what is left behind is finished, what lies ahead has not started
            assert all(c.role in (CLEAN, DONE) for c in full.steps[:first])
            assert all(c.role == UNSTARTED for c in full.steps[first + held :])
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
@pytest.mark.parametrize(("window", "overlap"), [(15, 0), (20, 0), (15, 5)])
def test_a_window_that_holds_the_clip_changes_nothing(window, overlap):
    options = ForcingOptions(5, 1, window_frames=window, overlap_frames=overlap)
    assert forcing_schedule(13, 9, options) == forcing_schedule(13, 9, ForcingOptions(5, 1))


@pytest.mark.parametrize(
    ("frames", "steps", "prefix", "changes", "words"),
    [
        (10, 4, 10, {}, "nothing to sample"),
        (10, 4, -1, {}, "prefix is -1"),
        (0, 4, 0, {}, "clip has 0 latent frames"),
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
    for frames, overlap in ((256, 0), (1001, 5)):
        options = ForcingOptions(window_frames=25, overlap_frames=overlap)
        last = forcing_schedule(frames, 4, options)[-1]
        assert last.start + last.frames == frames


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


def whole_chunk_cases():
    for frames, steps, size, delay, prefix in ALL_CASES:
        chunks = math.ceil(frames / size)
        yield chunks * size, steps, size, delay, prefix // size * size, chunks


@pytest.mark.parametrize("cases", [whole_chunk_cases, rolling_cases])
def test_the_schedule_is_diffusers_step_matrix(pipeline, cases):
    for case in cases():
        frames, steps, size, delay, prefix, held = case
        # distinct timesteps, so that equal matrices mean equal steps
        template = torch.arange(steps, 0, -1) + 100
        matrix, index, mask, intervals = pipeline.generate_timestep_matrix(
            None, frames, template, held * size, delay, prefix, size
        )
        options = ForcingOptions(size, delay, window_frames=held * size)
        schedule = forcing_schedule(frames, steps, options, prefix)
        assert [(it.start, it.start + it.frames) for it in schedule] == intervals, case
        # evaluations so far and timestep; what diffusers calls unstarted is timestep 999
        idle = {UNSTARTED: (0, 999), CLEAN: (steps + 1, 0), DONE: (steps + 1, 0)}
        for it, row in zip(schedule, zip(matrix, index, mask, strict=True), strict=True):
            steps_of = [c for n, c in zip(it.chunks, it.steps, strict=True) for _ in range(n)]
            active = [c.role == ACTIVE for c in steps_of]
            told = [
                (c.step + 1, int(template[c.step])) if on else idle[c.role]
                for c, on in zip(steps_of, active, strict=True)
            ]
            times, counts, updates = (x.tolist() for x in row)
            seen = slice(it.start, it.start + it.frames)
            assert told == list(zip(counts[seen], times[seen], strict=True)), case
            assert updates[seen] == active
            assert not any(updates[: seen.start] + updates[seen.stop :])


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
