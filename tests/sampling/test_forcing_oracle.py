"""Whole trajectories against diffusers' SkyReels-V2 diffusion-forcing pipeline."""

from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core.sampling import forcing, solver
from motioncache_pack.motioncache_core.sampling.schedule import CLEAN, DONE, ChunkStep
from motioncache_pack.tests.sampling.forcing_oracle import (
    Case,
    Networks,
    relative_error,
    run_ours,
    run_theirs,
    skyreels,
    trajectory_error,
)

# fp32 in another order; a wrong mask, timestep, weight or sample is off by some hundredths
TOLERANCE = 1e-4
ATTENTIONS = ("bidirectional", "block_causal")

ONE_WINDOW = {
    "staggered": Case(6, 8, 2, 3, seed=1),
    "staggered cfg": Case(6, 8, 2, 3, cfg=6.0, seed=2),
    "lag of one": Case(9, 6, 3, 1, cfg=3.0, shift=5.0, seed=3),
    "two clips": Case(6, 5, 3, 2, cfg=4.0, batch=2, seed=4),
    "together": Case(8, 6, 4, 0, cfg=5.0, seed=5),
    "one after the other": Case(6, 5, 2, 5, seed=6),
    "longer lag than steps": Case(6, 4, 2, 9, cfg=2.5, seed=7),
    "one chunk": Case(5, 6, 5, 2, shift=3.0, seed=8),
    "one step": Case(4, 1, 2, 1, seed=9),
    "many steps": Case(4, 20, 2, 5, cfg=6.0, seed=10),
}
FRAME_CHUNKS = {
    "frames together": Case(5, 6, 1, 0, cfg=6.0, seed=11),
    "frames staggered": Case(5, 6, 1, 2, seed=12),
    "frame after frame": Case(3, 4, 1, 4, cfg=3.0, shift=5.0, seed=13),
}
WINDOWS = {
    "two windows": Case(8, 6, 2, 2, window=6, overlap=2, seed=14),
    "shorter last": Case(10, 5, 2, 3, cfg=4.0, window=6, overlap=2, seed=15),
    "two chunks shared": Case(12, 4, 2, 4, cfg=2.0, window=6, overlap=4, seed=16),
    "together in windows": Case(9, 5, 3, 0, batch=2, window=6, overlap=3, seed=17),
}


def cases(named):
    return pytest.mark.parametrize("case", named.values(), ids=named.keys())


def alternating(named, both=()):
    """Every case with one of the attentions in turn, those that are named with both."""
    found = [
        pytest.param(case, attention, id=f"{name} {attention}")
        for i, (name, case) in enumerate(named.items())
        for j, attention in enumerate(ATTENTIONS)
        if i % 2 == j or name in both
    ]
    return pytest.mark.parametrize(("case", "attention"), found)


def assert_same(ours, theirs, tolerance=TOLERANCE):
    for told, expected in zip(ours.timesteps, theirs.timesteps, strict=True):
        assert torch.equal(told, expected)
    # nothing is proved by latents that stay where they start or run away
    assert 0.5 < theirs.latents.std() < 10
    assert trajectory_error(ours, theirs) <= tolerance


def same_condition_noise(monkeypatch, case, once):
    """The pipeline draws the noise on given frames from torch's own generator, in every
    iteration; now as our sampler draws it from the run's seed."""
    generator = torch.Generator().manual_seed(case.seed + 1)
    drawn = []

    def randn_like(x):
        if not (once and drawn):
            drawn.append(torch.randn(x.shape, generator=generator))
        return drawn[-1]

    monkeypatch.setattr(torch, "randn_like", randn_like)
    return drawn


@alternating(ONE_WINDOW | WINDOWS, both=("staggered cfg", "together", "shorter last"))
def test_whole_clips_and_windows_that_share_frames(case, attention):
    networks = Networks(case.seed)
    theirs = run_theirs(networks, case, masked=attention == "block_causal")
    assert_same(run_ours(networks, case, attention), theirs)


@cases(FRAME_CHUNKS)
def test_chunks_of_one_frame(case):
    networks = Networks(case.seed)
    theirs = run_theirs(networks, case, masked=False)
    assert_same(run_ours(networks, case, "bidirectional"), theirs)
    # diffusers masks chunks of two frames and more only: what it calls causal with chunks of one
    # is the same as without a mask, and ours is not
    assert torch.equal(run_theirs(networks, case, masked=True).latents, theirs.latents)
    causal = run_ours(networks, case, "block_causal")
    assert trajectory_error(causal, theirs) > 100 * TOLERANCE


@pytest.mark.parametrize(
    ("delay", "attention"), [(0, "block_causal"), (2, "bidirectional"), (5, "block_causal")]
)
def test_given_frames(delay, attention):
    case = Case(8, 5, 2, delay, cfg=3.0, window=6, overlap=4, seed=20 + delay)
    networks = Networks(case.seed)
    theirs = run_theirs(networks, case, masked=attention == "block_causal")
    # its second window, as a clip that goes on from four frames
    expected = theirs.latents[:, :, 2:]
    start = torch.zeros_like(expected)
    start[:, :, :4] = expected[:, :, :4]
    alone = replace(case, window=0, overlap=0)
    noise = case.noise()[:, :, 2:]
    ours = run_ours(networks, alone, attention, noise=noise, start=start, prefix=4)
    count = len(ours.steps)
    assert torch.equal(ours.latents[:, :, :4], expected[:, :, :4])
    assert_same(ours, replace(theirs, latents=expected, steps=theirs.steps[-count:],
                              timesteps=theirs.timesteps[-count:]))  # fmt: skip


@pytest.mark.parametrize(
    ("cfg", "noised", "attention"), [(1.0, 50, "bidirectional"), (4.0, 20, "block_causal")]
)
def test_noise_on_given_frames(monkeypatch, cfg, noised, attention):
    causal = attention == "block_causal"
    case = Case(10, 5, 2, 2, cfg, window=6, overlap=2, noised=noised, seed=30 + noised)
    networks = Networks(case.seed)
    # keys and values of given frames are computed once, so their noise is drawn once
    drawn = same_condition_noise(monkeypatch, case, once=causal)
    theirs = run_theirs(networks, case, masked=causal)
    assert len(drawn) == (1 if causal else 7)
    assert_same(run_ours(networks, case, attention), theirs)
    clean = run_ours(networks, replace(case, noised=0), attention)
    assert trajectory_error(clean, theirs) > 10 * TOLERANCE


@cases({name: ONE_WINDOW[name] for name in ("staggered cfg", "one after the other")})
def test_clean_keys_make_block_causal_exact(monkeypatch, case):
    """Without the evaluation of a finished chunk the others see keys of its last noisy step."""
    networks = Networks(case.seed)
    theirs = run_theirs(networks, case, masked=True)
    planned = forcing.forcing_schedule

    def without_clean(*args):
        for it in planned(*args):
            steps = (ChunkStep(DONE) if s.role == CLEAN else s for s in it.steps)
            yield replace(it, steps=tuple(steps))

    monkeypatch.setattr(forcing, "forcing_schedule", lambda *args: list(without_clean(*args)))
    ours = run_ours(networks, case, "block_causal")
    assert trajectory_error(ours, theirs) > 10 * TOLERANCE


@pytest.mark.parametrize("case", [Case(5, 6, 2, 3, seed=40), Case(8, 4, 3, 4, cfg=3.0, seed=41)])
def test_diffusers_leaves_noise_in_a_last_chunk_that_is_shorter(case):
    networks = Networks(case.seed)
    theirs = run_theirs(networks, case, masked=True)
    whole = case.frames - case.frames % case.chunk
    noise = case.noise()
    assert torch.equal(theirs.latents[:, :, whole:], noise[:, :, whole:])
    ours = run_ours(networks, case, "block_causal")
    assert relative_error(ours.latents[:, :, :whole], theirs.latents[:, :, :whole]) <= TOLERANCE
    assert relative_error(ours.latents[:, :, whole:], noise[:, :, whole:]) > 0.1


@pytest.mark.parametrize(
    ("name", "attention"), [("staggered cfg", "bidirectional"), ("many steps", "block_causal")]
)
def test_diffusers_first_correction_starts_from_the_wrong_sample(monkeypatch, name, attention):
    """The pipeline passes its scheduler a view of the latents, which the scheduler remembers in
    its first step and the pipeline then overwrites. The same mistake in our solver gives the same
    trajectory; in all other tests the scheduler gets a copy."""
    case = ONE_WINDOW[name]
    networks = Networks(case.seed)
    masked = attention == "block_causal"
    theirs = run_theirs(networks, case, masked, skyreels.UniPCMultistepScheduler)
    difference = trajectory_error(run_ours(networks, case, attention), theirs)
    assert difference > 10 * TOLERANCE
    step = solver._UniPCState.step

    def mistaken(state, k, x, x0):
        following = step(state, k, x, x0)
        if k == 0:
            state.y = following
        return following

    monkeypatch.setattr(solver._UniPCState, "step", mistaken)
    assert_same(run_ours(networks, case, attention), theirs)
