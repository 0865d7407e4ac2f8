"""Diffusion forcing on the device, in both attention modes, against the same on the CPU."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core.demo.forcing import cached_forcing_sample
from motioncache_pack.motioncache_core.demo.sampler import flow_sigmas
from motioncache_pack.motioncache_core.policy.distance import CalibratedProfile
from motioncache_pack.motioncache_core.sampling.options import ForcingOptions
from motioncache_pack.motioncache_core.sampling.run_facts import RunFacts
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.small_wan import TEXT_DIM, TEXT_TOKENS, small_wan
from motioncache_pack.tests.gpu.support import watch_reads
from motioncache_pack.tests.support.assert_close import assert_close, assert_same

pytestmark = pytest.mark.gpu

TOLERANCE = 2e-4
SIGMAS = flow_sigmas(10, 3.0)
PROFILE = CalibratedProfile("test", (0.0, 0.5, 1.0), (0.0, 0.4, 0.9))
OFF = MotionCacheSettings(reuse_threshold=0.0)
MOTION = MotionCacheSettings(
    warmup_steps=2, uniform_updates=1, reuse_threshold=0.117, motion_sensitivity=0.9,
    agreement=0.0, min_update_ratio=0.02, max_stale_steps=6, forecast=0.75,
)  # fmt: skip
CAUSAL = ForcingOptions(chunk_frames=2, chunk_delay=2)
RUNS = {
    "block-causal, no reuse": (CAUSAL, OFF),
    "block-causal, motion": (CAUSAL, MOTION),
    "block-causal, chunk": (CAUSAL, replace(MOTION, policy="chunk")),
    "block-causal, separate": (CAUSAL, replace(MOTION, cfg_mask="separate")),
    "block-causal, window": (replace(CAUSAL, window_frames=4, chunk_delay=5), MOTION),
    "block-causal, compressed": (replace(CAUSAL, kv_keep=1), MOTION),
    "bidirectional, no reuse": (replace(CAUSAL, attention="bidirectional"), OFF),
    "bidirectional, motion": (replace(CAUSAL, attention="bidirectional"), MOTION),
}
runs = pytest.mark.parametrize("name", RUNS)


def sampled(device, name):
    """Latents and trace; one frame is given and shown with a little noise."""
    options, settings = RUNS[name]
    rng = torch.Generator().manual_seed(2)
    texts = [torch.randn(1, TEXT_TOKENS, TEXT_DIM, generator=rng).to(device) for _ in range(2)]
    noise, start = (torch.randn(1, 16, 7, 6, 8, generator=rng).to(device) for _ in range(2))
    return cached_forcing_sample(
        copy.deepcopy(small_wan(1, 2)).to(device),
        *texts,
        noise,
        SIGMAS,
        replace(options, condition_noise=0.02),
        settings,
        kernels,
        RunFacts(sigmas=SIGMAS, profile=PROFILE),
        start=start,
        prefix=1,
        seed=3,
    )


@runs
def test_a_run_equals_the_same_on_the_cpu(name, device, fast):
    with kernels.use_backend("reference"):
        wanted, expected = sampled("cpu", name)
    got, trace = sampled(device, name)
    numbers = [
        [[(c.kind, c.phase, c.active) for c in e.chunks] for e in t.evaluations]
        for t in (expected, trace)
    ]
    assert numbers[0] == numbers[1]
    if "motion" in name:
        assert "partial" in {c.kind for e in trace.evaluations for c in e.chunks}
    assert_close("latents", wanted, got.cpu(), TOLERANCE)


@runs
def test_two_runs_give_the_same_bits(name, device, fast):
    assert_same("latents", sampled(device, name)[0], sampled(device, name)[0])


@runs
def test_an_evaluation_waits_for_the_device_once(name, device, fast, monkeypatch):
    sampled(device, name)
    reads = watch_reads(monkeypatch, device)
    sampled(device, name)
    assert max(reads) <= 1
    # a run that is not measured knows its noise levels from the sampler, and reads nothing
    assert sum(reads) > 0 or "no reuse" in name
