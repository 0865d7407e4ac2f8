"""Whole runs with a toy model: what it is told, what changes, what comes back."""

import math

import pytest
import torch
from motioncache_pack.motioncache_core.common.errors import CacheShapeError, SettingsError
from motioncache_pack.motioncache_core.sampling.forcing import sample_forcing
from motioncache_pack.motioncache_core.sampling.options import ForcingOptions
from motioncache_pack.motioncache_core.sampling.schedule import ACTIVE, UNSTARTED, forcing_schedule
from motioncache_pack.motioncache_core.sampling.solver import make_solver
from motioncache_pack.tests.support.assert_close import assert_close, assert_same

BATCH, CHANNELS, HEIGHT, WIDTH = 2, 3, 5, 3


def draw(seed, frames, batch=BATCH):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(batch, CHANNELS, frames, HEIGHT, WIDTH, generator=rng)


def flow_sigmas(steps, shift=3.0, top=1.0, bottom=0.0):
    u = torch.linspace(top, bottom, steps + 1, dtype=torch.float64)
    return (shift * u / (1 + (shift - 1) * u)).tolist()


class FrameModel:
    """Predicts each frame from itself and its noise level; notes what it was shown and told."""

    def __init__(self):
        self.calls = []
        self.shown = []

    def __call__(self, x, call):
        self.calls.append(call)
        self.shown.append(x.clone())
        sigma = torch.tensor(call.sigmas).view(1, 1, -1, 1, 1)
        return predict(x, sigma)


def predict(x, sigma):
    return torch.tanh(x * (1 - 0.5 * sigma) + 0.2 * x.roll(1, dims=3))


def refuse(x, call):
    raise AssertionError("the model must not run")


def ordinary(name, sigmas, x):
    """All frames at the same noise level, one solver."""
    state = make_solver(name, sigmas).start()
    for k in range(len(sigmas) - 1):
        x = state.step(k, x, predict(x, sigmas[k]))
    return x


@pytest.mark.parametrize(
    ("size", "delay", "solver"),
    [
        (5, 0, "unipc"),
        (3, 0, "euler"),
        (3, 2, "unipc"),
        (4, 6, "euler"),
        (1, 9, "unipc"),
        (11, 1, "euler"),
    ],
)
def test_frames_that_do_not_see_each_other_sample_as_ever(size, delay, solver):
    noise, latents, sigmas = draw(1, 11), draw(2, 11), flow_sigmas(6, top=0.9)
    model = FrameModel()
    got = sample_forcing(model, noise, latents, sigmas, ForcingOptions(size, delay, solver=solver))
    start = sigmas[0] * noise + (1 - sigmas[0]) * latents
    assert_close("clip", ordinary(solver, sigmas, start), got)
    assert len(model.calls) == 6 + (math.ceil(11 / size) - 1) * min(delay, 6)


CASES = [
    {},
    {"chunk_delay": 0},
    {"chunk_delay": 9, "chunk_frames": 4},
    {"chunk_frames": 1},
    {"window_frames": 10, "chunk_delay": 3},
    {"window_frames": 10, "overlap_frames": 5},
    {"window_frames": 12, "overlap_frames": 8, "chunk_frames": 4},
]
# every case without and with given frames, in whole chunks and inside one
TOLD = [
    (changes, prefix, attention)
    for i, changes in enumerate(CASES)
    for prefix, attention in ((0, "block_causal"), ((5, 7)[i % 2], "bidirectional"))
]


@pytest.mark.parametrize(("changes", "prefix", "attention"), TOLD)
def test_every_frame_is_told_its_own_noise_level(changes, prefix, attention):
    frames, sigmas, noise_level = 23, flow_sigmas(5), 0.02
    options = ForcingOptions(
        **{"chunk_delay": 2, **changes}, attention=attention, condition_noise=noise_level
    )
    model = FrameModel()
    sample_forcing(model, draw(4, frames), draw(5, frames), sigmas, options, prefix)
    schedule = forcing_schedule(frames, 5, options, prefix)
    assert [call.iteration for call in model.calls] == schedule
    for call, x in zip(model.calls, model.shown, strict=True):
        it = call.iteration
        assert len(call.sigmas) == x.shape[2] == it.frames
        active = []
        for f, sigma in enumerate(call.sigmas):
            chunk = next(
                c for c, s in zip(it.steps, it.chunk_frames(), strict=True) if s.start <= f < s.stop
            )
            if chunk.role == ACTIVE:
                active.append(sigmas[chunk.step])
            if f < it.prefix:
                assert sigma == noise_level
            elif chunk.role == ACTIVE:
                assert sigma == sigmas[chunk.step]
            else:
                assert sigma == (sigmas[0] if chunk.role == UNSTARTED else 0.0)
        assert call.level == max(active) > 0.0


@pytest.mark.parametrize("changes", CASES)
def test_finished_frames_do_not_change_and_unstarted_ones_are_noise(changes):
    options = ForcingOptions(**{"chunk_delay": 3, **changes})
    noise, latents, sigmas = draw(10, 23), draw(11, 23), flow_sigmas(4, top=0.9)
    model = FrameModel()
    got = sample_forcing(model, noise, latents, sigmas, options)
    start = sigmas[0] * noise + (1 - sigmas[0]) * latents
    for call, x in zip(model.calls, model.shown, strict=True):
        it = call.iteration
        for chunk, frames in zip(it.steps, it.chunk_frames(), strict=True):
            # a chunk may start with given frames
            frames = slice(max(frames.start, it.prefix), frames.stop)
            clip = slice(it.start + frames.start, it.start + frames.stop)
            if chunk.role == UNSTARTED:
                assert_same("unstarted", start[:, :, clip], x[:, :, frames])
            elif chunk.role != ACTIVE:
                assert_same("finished", got[:, :, clip], x[:, :, frames])
        assert_same("given", got[:, :, it.start : it.start + it.prefix], x[:, :, : it.prefix])


def test_a_run_may_end_before_the_noise_does():
    sigmas = flow_sigmas(4, bottom=0.3)
    noise, model = draw(17, 6), FrameModel()
    got = sample_forcing(model, noise, torch.zeros_like(noise), sigmas, ForcingOptions(2, 2))
    assert_close("clip", ordinary("unipc", sigmas, noise), got)
    # a finished chunk is at the last noise level, not at 0
    assert model.calls[-1].sigmas == (sigmas[-1],) * 4 + (sigmas[3],) * 2
    windows = ForcingOptions(2, window_frames=4, overlap_frames=2)
    with pytest.raises(SettingsError, match="sigmas end at"):
        sample_forcing(refuse, noise, noise, sigmas, windows)


def test_progress_shows_predictions_as_far_as_they_go():
    noise, sigmas, model = draw(18, 7), flow_sigmas(3), FrameModel()
    options, seen = ForcingOptions(2, 2), []

    def look(done, total, predicted, x):
        seen.append((predicted.clone(), x.clone()))

    got = sample_forcing(model, noise, torch.zeros_like(noise), sigmas, options, progress=look)
    predicted = noise.clone()
    for call, x, (shown, latents) in zip(model.calls, model.shown, seen, strict=True):
        x0 = predict(x, torch.tensor(call.sigmas).view(1, 1, -1, 1, 1))
        for chunk, frames in zip(call.iteration.steps, call.iteration.chunk_frames(), strict=True):
            if chunk.role == ACTIVE:
                predicted[:, :, frames] = x0[:, :, frames]
            else:
                assert_same("latents", x[:, :, frames], latents[:, :, frames])
        assert_same("predicted", predicted, shown)
    for shown in seen[-1]:
        assert_same("end", got, shown)
    assert_same("without", got, sample_forcing(FrameModel(), noise, 0 * noise, sigmas, options))


@pytest.mark.parametrize("changes", [{}, {"window_frames": 8}])
def test_solver_state_lives_as_long_as_its_chunk(new_objects, changes):
    # no other tensor has a chunk's shape
    noise, sigmas, steps = draw(19, 20, batch=1), flow_sigmas(4), 4
    options = ForcingOptions(2, 1, **changes)
    shape, held = (1, CHANNELS, 2, HEIGHT, WIDTH), []

    def look(done, total, predicted, x):
        alive = [o for o in new_objects() if type(o) is torch.Tensor]
        held.append(len([o for o in alive if o.shape == shape]))

    sample_forcing(lambda x, call: x * 0.5, noise, 0 * noise, sigmas, options, progress=look)
    running = [
        sum(c.role == ACTIVE and c.step < steps - 1 for c in it.steps)
        for it in forcing_schedule(20, steps, options)
    ]
    assert max(running) == steps - 1
    assert all(count <= 3 * chunks for count, chunks in zip(held, running, strict=True))
    assert max(held) >= 2 * max(running)
    assert held[-1] == 0


@pytest.mark.parametrize(
    ("noise", "latents", "words"),
    [
        ((1, 4, 8, 8), (1, 4, 8, 8), r"\(1, 4, 8, 8\).*video"),
        ((1, 4, 3, 8, 8), (1, 4, 2, 8, 8), r"the noise has shape \(1, 4, 3, 8, 8\)"),
        ((1, 4, 8, 8), (1, 4, 2, 8, 8), "must be the same"),
    ],
)
def test_tensors_of_the_wrong_shape_are_refused(noise, latents, words):
    with pytest.raises(CacheShapeError, match=words):
        sample_forcing(
            refuse, torch.zeros(noise), torch.zeros(latents), [1.0, 0.0], ForcingOptions()
        )


def test_a_model_that_returns_another_shape_is_refused():
    noise = draw(20, 4)
    with pytest.raises(CacheShapeError, match="the model returned"):
        sample_forcing(lambda x, call: x[:, :, 1:], noise, noise, [1.0, 0.0], ForcingOptions())


@pytest.mark.parametrize(
    ("sigmas", "changes", "prefix", "words"),
    [
        ([1.0, 1.0, 0.0], {}, 0, "smaller than the one before"),
        ([1.0, 0.0], {}, 12, "nothing to sample"),
        (flow_sigmas(9), {"window_frames": 10, "chunk_delay": 4}, 0, "at least 5"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_the_model_runs(sigmas, changes, prefix, words):
    noise = draw(21, 12)
    with pytest.raises(SettingsError, match=words):
        sample_forcing(refuse, noise, noise, sigmas, ForcingOptions(**changes), prefix)
