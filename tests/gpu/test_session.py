"""Whole evaluations of a small Wan on the device, against the same on the CPU."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core.demo.sampler import SampleOptions, cached_sample, sample
from motioncache_pack.motioncache_core.policy.distance import CalibratedProfile
from motioncache_pack.motioncache_core.sampling.run_facts import RunFacts
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.oracle import WholeClip, random_rows
from motioncache_pack.tests.core.runs import Run
from motioncache_pack.tests.core.small_wan import CASES, TEXT_DIM, TEXT_TOKENS, small_wan
from motioncache_pack.tests.gpu.support import dictated, watch_reads
from motioncache_pack.tests.support.assert_close import assert_close, assert_same

pytestmark = pytest.mark.gpu

# sums in another order, through twelve steps of classifier-free guidance
TOLERANCE = 2e-4
OPTIONS = SampleOptions(steps=12, cfg=2.5, shift=3.0)
PROFILE = CalibratedProfile("test", (0.0, 0.5, 1.0), (0.0, 0.4, 0.9))
# distances differ along the schedule, so that a run has evaluations of all three kinds
SETTINGS = MotionCacheSettings(
    warmup_steps=2, uniform_updates=1, reuse_threshold=0.117, motion_sensitivity=0.9,
    agreement=0.0, min_update_ratio=0.02, max_stale_steps=6,
)  # fmt: skip
VARIANTS = {
    "plain": SETTINGS,
    "forecast": replace(SETTINGS, forecast=0.75),
    "features, voting": replace(SETTINGS, motion_source="features", agreement=0.4),
    "separate decisions": replace(SETTINGS, cfg_mask="separate", forecast=0.75),
    "chunk": replace(SETTINGS, policy="chunk", forecast=0.75),
    "random": replace(SETTINGS, policy="random"),
}


def network(device, dtype=torch.float32, heads=2):
    return copy.deepcopy(small_wan(heads)).to(device, dtype)


def inputs(device, dtype=torch.float32, batch=1):
    """Positive, negative, noise."""
    rng = torch.Generator().manual_seed(4)
    texts = [torch.randn(batch, TEXT_TOKENS, TEXT_DIM, generator=rng) for _ in range(2)]
    noise = torch.randn(batch, 16, 4, 8, 12, generator=rng)
    return [t.to(device, dtype) for t in (*texts, noise)]


def sampled(device, settings, options=OPTIONS, dtype=torch.float32, batch=1):
    facts = RunFacts(sigmas=options.sigmas(), profile=PROFILE)
    given = inputs(device, dtype, batch)
    return cached_sample(network(device, dtype), *given, options, settings, kernels, facts)


@pytest.mark.parametrize("split", [False, True], ids=["batched", "split"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_equals_the_same_on_the_cpu(variant, split, device, fast):
    options = replace(OPTIONS, split=split)
    with kernels.use_backend("reference"):
        wanted, expected = sampled("cpu", VARIANTS[variant], options, batch=2)
    got, trace = sampled(device, VARIANTS[variant], options, batch=2)
    kinds = {e.kind for e in trace.evaluations}
    assert kinds == ({"dense", "reuse"} if variant == "chunk" else {"dense", "partial", "reuse"})
    numbers = [
        [[(c.kind, c.phase, c.active) for c in e.chunks] for e in t.evaluations]
        for t in (expected, trace)
    ]
    assert numbers[0] == numbers[1]
    assert_close("latents", wanted, got.cpu(), TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_run_that_never_reuses_is_bit_identical(dtype, device, fast):
    wanted = sample(network(device, dtype), *inputs(device, dtype), OPTIONS)
    for threshold in (0.0, 1e-30):
        settings = replace(SETTINGS, reuse_threshold=threshold)
        got, _ = sampled(device, settings, dtype=dtype)
        assert_same("latents", wanted, got)


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_runs_give_the_same_bits(variant, device, fast):
    runs = [sampled(device, VARIANTS[variant], dtype=torch.bfloat16)[0] for _ in range(2)]
    assert bool(torch.isfinite(runs[0]).all())
    assert_same("latents", *runs)


def moved(case_inputs, device, dtype):
    x, t, context, arguments = case_inputs
    arguments = {k: v.to(device, dtype) for k, v in arguments.items()}
    return x.to(device, dtype), t.to(device), context.to(device, dtype), arguments


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_all_rows_through_the_partial_path_equal_dense(name, dtype, device, fast, monkeypatch):
    case = CASES[name]
    dictated(monkeypatch, "dense", range(case.tokens))
    net = copy.deepcopy(case.network()).to(device, dtype)
    run = Run(net)
    for seed in (0, 1):
        x, t, context, arguments = moved(case.inputs(seed), device, dtype)
        got = run.call(x, t, context, **arguments)
        wanted = net(x, t, context, **arguments)
    assert run.kinds == ["dense", "partial"]
    assert_close("output", wanted, got, 1e-5 if dtype == torch.float32 else 3e-2)


@pytest.mark.parametrize("name", CASES)
def test_changing_inputs_equal_the_whole_clip_oracle(name, device, fast, monkeypatch):
    case = CASES[name]
    shares = [1.0, 0.5, 0.0, 0.04, 0.9, 0.0, 1.0, 0.25]
    kinds = {1.0: "dense", 0.0: "reuse"}
    sizes = [round(share * case.tokens) or int(share > 0) for share in shares]
    rows = [random_rows(case.tokens, size, seed) for seed, size in enumerate(sizes)]
    dictated(monkeypatch, *(kinds.get(s, r) for s, r in zip(shares, rows, strict=True)))
    net = copy.deepcopy(case.network()).to(device)
    run, oracle = Run(net), WholeClip(net)
    for seed, active in enumerate(rows):
        x, t, context, arguments = moved(case.inputs(seed), device, torch.float32)
        wanted = oracle.call(x, t, context, active, **arguments)
        got = run.call(x, t, context, **arguments)
        assert_close(f"evaluation {seed}", wanted, got, 1e-4)
    assert run.kinds == [kinds.get(share, "partial") for share in shares]


@pytest.mark.parametrize("split", [False, True], ids=["batched", "split"])
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "random"])
def test_an_evaluation_waits_for_the_device_once(variant, split, device, fast, monkeypatch):
    options = replace(OPTIONS, split=split)
    # kernels are compiled and libraries loaded before anything is watched
    sampled(device, VARIANTS[variant], options)
    reads = watch_reads(monkeypatch, device)
    _, trace = sampled(device, VARIANTS[variant], options)
    assert len(reads) == sum(len(e.calls) for e in trace.evaluations)
    assert max(reads) == 1


def test_a_watched_wait_is_an_error(device, monkeypatch):
    """The watch itself: a second read in an evaluation does not go unseen."""
    if device == "cpu":
        pytest.skip("a CPU never waits")
    reads = watch_reads(monkeypatch, device)
    run = Run(network(device))
    context, _, x = inputs(device)
    run.network.head.register_forward_pre_hook(lambda module, args: args[0].sum().item())
    with pytest.raises(RuntimeError, match="synchroniz"):
        run.call(x, torch.full((1,), 900.0, device=device), context)
    assert len(reads) == 1
