"""Given frames: unchanged in the clip, and noised for the model alone."""

from itertools import pairwise

import pytest
import torch
from motioncache_pack.motioncache_core.sampling.forcing import sample_forcing
from motioncache_pack.motioncache_core.sampling.options import ForcingOptions
from motioncache_pack.motioncache_core.sampling.schedule import forcing_schedule
from motioncache_pack.tests.sampling.test_forcing import CASES, FrameModel, draw, flow_sigmas
from motioncache_pack.tests.support.assert_close import assert_close, assert_same


@pytest.mark.parametrize(
    ("changes", "prefix", "noise_level"),
    [(changes, (1, 5, 7, 22)[i % 4], 0.1 * (i % 2)) for i, changes in enumerate([*CASES, {}])],
)
def test_given_frames_come_back_bit_for_bit(changes, prefix, noise_level):
    options = ForcingOptions(**{"chunk_delay": 3, **changes}, condition_noise=noise_level)
    noise, latents, steps = draw(6, 23), draw(7, 23), []
    before = noise.clone(), latents.clone()

    def look(done, total, predicted, x):
        steps.append((done, total))
        assert_same("given", latents[:, :, :prefix], x[:, :, :prefix])
        assert_same("given, predicted", latents[:, :, :prefix], predicted[:, :, :prefix])

    got = sample_forcing(
        FrameModel(), noise, latents, flow_sigmas(4), options, prefix, progress=look
    )
    assert_same("given", latents[:, :, :prefix], got[:, :, :prefix])
    changed = (got != latents).flatten(3).any(3).any(1).all(0)
    assert changed.tolist() == [f >= prefix for f in range(23)]
    total = len(forcing_schedule(23, 4, options, prefix))
    assert steps == [(i + 1, total) for i in range(total)]
    assert_same("noise", before[0], noise)
    assert_same("latents", before[1], latents)


def test_given_frames_of_less_precision_are_not_changed():
    latents = draw(8, 6).to(torch.bfloat16)
    got = sample_forcing(
        FrameModel(), draw(9, 6), latents, flow_sigmas(2), ForcingOptions(2), prefix=3
    )
    assert got.dtype == torch.float32
    assert_same("given", latents[:, :, :3].float(), got[:, :, :3])


def noised_prefixes(options, seed, prefix=7, frames=23):
    latents, model = draw(12, frames), FrameModel()
    got = sample_forcing(model, draw(13, frames), latents, flow_sigmas(4), options, prefix, seed)
    runs = []
    for call, x in zip(model.calls, model.shown, strict=True):
        it = call.iteration
        clean = got[:, :, it.start : it.start + it.prefix]
        a = options.condition_noise
        runs.append((it, (x[:, :, : it.prefix] - (1 - a) * clean) / a))
    return runs, got


def test_bidirectional_attention_sees_new_noise_in_every_iteration():
    options = ForcingOptions(attention="bidirectional", condition_noise=0.05)
    runs, _ = noised_prefixes(options, seed=3)
    for (_, one), (_, other) in pairwise(runs):
        correlation = torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1]
        assert abs(correlation) < 0.35


@pytest.mark.parametrize("changes", [{}, {"window_frames": 10, "chunk_delay": 2}])
def test_block_causal_attention_sees_one_draw_in_a_window(changes):
    options = ForcingOptions(**changes, condition_noise=0.05)
    runs, _ = noised_prefixes(options, seed=3)
    first = runs[0][1]
    assert 0.8 < float(first.std()) < 1.2
    for it, noise in runs:
        # a rolling window leaves given frames behind; those it keeps look as before
        assert_same("draw", first[:, :, it.start :], noise)
    assert {it.start for it, _ in runs} == ({0} if not changes else {0, 5, 10, 15})


def test_every_window_draws_for_its_own_given_frames():
    options = ForcingOptions(window_frames=10, overlap_frames=5, condition_noise=0.05)
    runs, _ = noised_prefixes(options, seed=3)
    windows = {}
    for it, noise in runs:
        assert_close("one draw", windows.setdefault(it.window, noise), noise)
    assert [n.shape[2] for n in windows.values()] == [7, 5, 5, 5]
    draws = torch.stack([n[:, :, :5].flatten() for n in windows.values()])
    assert (torch.corrcoef(draws) - torch.eye(4)).abs().max() < 0.35


@pytest.mark.parametrize("attention", ["block_causal", "bidirectional"])
def test_the_seed_decides_the_condition_noise(attention):
    options = ForcingOptions(attention=attention, condition_noise=0.1)
    state = torch.get_rng_state()
    (one, end), (same, same_end), (other, _) = (noised_prefixes(options, s) for s in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    for (_, a), (_, b), (_, c) in zip(one, same, other, strict=True):
        assert_same("same seed", a, b)
        assert (a - c).abs().max() > 0.1
    assert_same("end", end, same_end)


def test_no_condition_noise_shows_the_given_frames_as_they_are():
    latents, model = draw(14, 9), FrameModel()
    sample_forcing(model, draw(15, 9), latents, flow_sigmas(3), ForcingOptions(3, 1), prefix=4)
    assert all(torch.equal(x[:, :, :4], latents[:, :, :4]) for x in model.shown)
    assert all(call.sigmas[:4] == (0.0,) * 4 for call in model.calls)
