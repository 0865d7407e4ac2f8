"""What 8 bits and the host's memory do to the videos of the model that settings were chosen on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core import PRESETS, ForcingOptions, RunFacts
from motioncache_pack.motioncache_core.demo import checkpoint, codec, scenes
from motioncache_pack.motioncache_core.demo.forcing import cached_forcing_sample
from motioncache_pack.motioncache_core.demo.sampler import SampleOptions, cached_sample
from motioncache_pack.tests.bench.quality import cell_tracks

OPTIONS = SampleOptions(steps=24, shift=checkpoint.SHIFT)
# their forecast is kept on the model's device in its dtype only
MOTION = replace(PRESETS["motion"], kv_forecast=0.0)
FAST = replace(MOTION, compute_budget=0.3)
NEVER = replace(MOTION, reuse_threshold=0.0)
CHUNKS = ForcingOptions(3, 6)
FRAMES = 9


def video(seed, settings, forcing=None):
    """Decoded frames and the trace; without reuse under block-causal attention for `NEVER`."""
    scene = list(scenes.SCENES.values())[seed % len(scenes.SCENES)]
    clip = cell_tracks.clip(scene, FRAMES, take=seed)
    noise, shown = clip.noise(seed), {"conditions": clip.conditions}
    profile = checkpoint.profile(cell_tracks.WEIGHTS.with_suffix(".profile.json"))
    facts = RunFacts(sigmas=OPTIONS.sigmas(), profile=profile)
    told = (checkpoint.load(cell_tracks.WEIGHTS), *clip.text, noise)
    given = (settings, kernels, facts)
    if forcing is None:
        latents, trace = cached_sample(*told, OPTIONS, *given, **shown)
    else:
        latents, trace = cached_forcing_sample(*told, facts.sigmas, forcing, *given, **shown)
    return codec.decode(latents)[0], trace


def error(got, wanted):
    """Mean squared."""
    return float((got - wanted).double().square().mean())


@pytest.mark.parametrize(
    "settings, seed, forcing, partial",
    [(MOTION, 0, None, 5), (MOTION, 1, CHUNKS, 5), (FAST, 3, None, 3), (FAST, 0, CHUNKS, 3)],
)
def test_8_bits_cost_less_than_a_tenth_of_what_partial_evaluations_cost(
    settings, seed, forcing, partial
):
    plain, _ = video(seed, NEVER, forcing)
    exact, trace = video(seed, replace(settings, kv_cache="gpu"), forcing)
    assert sum(c.kind == "partial" for c in trace.calls()) >= partial
    coded, other = video(seed, replace(settings, kv_cache="gpu_fp8"), forcing)
    # fp32 here; one head of 128 channels and a scale
    assert other.kv_bytes * 4 * 128 == trace.kv_bytes * (128 + 4)
    offloaded, third = video(seed, replace(settings, kv_cache="cpu"), forcing)
    assert torch.equal(offloaded, exact)
    assert third.kv_host_bytes == trace.kv_bytes
    assert 0 < error(coded, exact) < 0.1 * error(exact, plain)


def test_where_reuse_is_nearly_exact_8_bits_are_too():
    """Of the clips above the one whose 8 bits cost most, at the preset's budget."""
    exact, coded = (
        video(0, replace(MOTION, kv_cache=place), CHUNKS)[0] for place in ("gpu", "gpu_fp8")
    )
    # 50 dB
    assert 0 < error(coded, exact) < 1e-5
