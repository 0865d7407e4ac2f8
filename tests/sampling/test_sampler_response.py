"""Samplers rehearsed: what is measured is what they do."""

import itertools

import numpy as np
import pytest
import torch
from motioncache_pack.motioncache_core.sampling.sampler_response import (
    RehearsalError,
    euler,
    places,
    rehearse,
    shares,
)

SIGMAS = (1.0, 0.9, 0.74, 0.5, 0.2, 0.0)


def adams(model, x, noise):
    """Two-step Adams-Bashforth: remembers an answer."""
    before = None
    for s, low in itertools.pairwise(SIGMAS):
        d = (x - model(x, s)) / s
        x = x + (low - s) * (d if before is None else 1.5 * d - 0.5 * before)
        before = d
    return x


def heun(model, x, noise):
    """Two evaluations a step but for the last."""
    for s, low in itertools.pairwise(SIGMAS):
        d = (x - model(x, s)) / s
        if low == 0:
            x = x - s * d
        else:
            there = x + (low - s) * d
            x = x + (low - s) * (d + (there - model(there, low)) / low) / 2
    return x


def ancestral(model, x, noise):
    """Some new noise at every step."""
    for s, low in itertools.pairwise(SIGMAS):
        clean = model(x, s)
        x = clean + 0.8 * low * (x - clean) / s + (0.6 * low * noise(x) if low else 0.0)
    return x


def renoising(model, x, noise):
    """Goes on from clean latents and new noise, as LCM does."""
    for s, low in itertools.pairwise(SIGMAS):
        clean = model(x, s)
        x = clean + (low * noise(x) if low else 0.0)
    return x


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize(
    ("sampler", "evaluations", "noisy"),
    [(adams, 5, False), (heun, 9, False), (ancestral, 5, True), (renoising, 5, True)],
)
def test_latents_are_the_sum_that_was_measured(sampler, evaluations, noisy, clean):
    """Of answers, or of clean latents."""
    found = rehearse(sampler, SIGMAS)
    response = found.clean_response if clean else found.response
    assert found.evaluations == evaluations
    assert found.adds_noise is noisy
    rng = torch.Generator().manual_seed(3)
    answers = torch.randn(evaluations, 1, 7, 1, 1, 1, generator=rng, dtype=torch.float64)
    seen = []

    def model(x, sigma):
        assert sigma == found.sigmas[len(seen)]
        seen.append(x)
        answer = answers[len(seen) - 1]
        return answer if clean else x - sigma * answer

    # without start and noise there are only the answers
    result = sampler(model, torch.zeros(1, 7, 1, 1, 1, dtype=torch.float64), torch.zeros_like)
    for k, x in enumerate([*seen, result]):
        told = sum(response[k, j] * answers[j] for j in range(evaluations))
        torch.testing.assert_close(x, told + torch.zeros_like(x), rtol=1e-6, atol=1e-9)


def test_which_samplers_forget():
    assert rehearse(renoising, SIGMAS).forgets
    assert not rehearse(ancestral, SIGMAS).forgets
    assert not rehearse(adams, SIGMAS).forgets


def test_euler_in_closed_form():
    def sampler(model, x, noise):
        for s, low in itertools.pairwise(SIGMAS):
            x = x + (low - s) * (x - model(x, s)) / s
        return x

    measured, known = rehearse(sampler, SIGMAS), euler(SIGMAS)
    assert measured.sigmas == known.sigmas
    assert measured.places == known.places == (0, 1, 2, 3, 4)
    np.testing.assert_allclose(measured.response, known.response, atol=1e-9)


def test_shares_say_what_moves_the_next_latents_alike():
    response = rehearse(adams, SIGMAS).response
    found = shares(response)
    for k in range(len(SIGMAS) - 1):
        for j in range(k + 1):
            assert found[k, j] * response[k + 1, k] == pytest.approx(response[k + 1, j])


def test_a_sampler_that_takes_single_precision_only():
    def sampler(model, x, noise):
        if x.dtype != torch.float32:
            raise RuntimeError("both inputs should have same dtype")
        return adams(model, x, noise)

    np.testing.assert_allclose(
        rehearse(sampler, SIGMAS).response, rehearse(adams, SIGMAS).response, atol=1e-5
    )


def endless(model, x, noise):
    while True:
        x = model(x, 0.5)


def adaptive(model, x, noise):
    for s in SIGMAS[:-1]:
        clean = model(x, s)
        if float(clean.abs().max()) > 0.01:
            x = model(clean, s / 2)
    return x


def squared(model, x, noise):
    for s in SIGMAS[:-1]:
        x = model(x, s) ** 2
    return x


def curious(model, x, noise):
    return model.network(x)


def idle(model, x, noise):
    return x


def infinite(model, x, noise):
    return model(x, 0.5) / 0.0


@pytest.mark.parametrize(
    ("sampler", "why"),
    [
        (endless, "goes on"),
        (adaptive, "depend on what the model answers"),
        (squared, "not a weighted sum"),
        (curious, "AttributeError"),
        (idle, "does not call the model"),
        (infinite, "no finite response"),
    ],
)
def test_what_cannot_be_followed_says_why(sampler, why):
    with pytest.raises(RehearsalError, match=why):
        rehearse(sampler, SIGMAS)


def test_places_are_steps_of_the_schedule():
    assert places((1.0, 0.95, 0.9, 0.9, 0.1), SIGMAS) == (0, 0.5, 1, 1, 4.5)
    # a schedule that rises again: the number of the evaluation
    assert places((0.2, 0.4, 0.3), (0.2, 0.4, 0.3, 0.0)) == (0, 1, 2)
