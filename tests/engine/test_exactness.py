"""The engine on a small Wan: all rows active equals dense, and a subset equals the whole clip."""

import copy

import pytest
import torch
from motioncache_pack import kernels as ops
from motioncache_pack.motioncache_core import MotionCacheSettings, RunFacts
from motioncache_pack.motioncache_core.demo.sampler import (
    SampleOptions,
    cached_sample,
    flow_sigmas,
    sample,
)
from motioncache_pack.tests.core.kv_places import in_turn
from motioncache_pack.tests.core.oracle import WholeClip, random_rows
from motioncache_pack.tests.core.runs import Run, Steady, dictate
from motioncache_pack.tests.core.small_wan import CASES, TEXT_DIM, TEXT_TOKENS, Case, small_wan
from motioncache_pack.tests.support.assert_close import assert_close, assert_same


def bare(network, inputs):
    x, t, context, arguments = inputs
    return network(x, t, context, **arguments)


def through(run, inputs, **kwargs):
    x, t, context, arguments = inputs
    return run.call(x, t, context, **arguments, **kwargs)


@pytest.mark.parametrize(
    "name, kept_in",
    [
        *in_turn(CASES),
        ("text to video", "gpu_fp8"),
        ("text to video", "cpu"),
        ("two samples", "cpu"),
    ],
    indirect=["kept_in"],
)
def test_a_run_of_changing_inputs_equals_the_whole_clip_oracle(name, kept_in, monkeypatch):
    case = CASES[name]
    full = list(range(case.tokens))
    shares = [None, 0.5, 0.0, 0.04, 0.9, 0.0, None, 0.25, 1.0]
    kinds = {None: "dense", 0.0: "reuse"}
    rows = [
        full if s is None else random_rows(case.tokens, round(s * case.tokens) or int(s > 0), seed)
        for seed, s in enumerate(shares)
    ]
    dictate(monkeypatch, *(kinds.get(s, r) for s, r in zip(shares, rows, strict=True)))
    network = case.network()
    run, oracle = Run(network), WholeClip(network)
    for seed, active in enumerate(rows):
        x, t, context, arguments = inputs = case.inputs(seed)
        wanted, got = oracle.call(x, t, context, active, **arguments), through(run, inputs)
        assert_close(f"evaluation {seed}", wanted, got)
        if active == full:
            assert_close(f"evaluation {seed}", bare(network, inputs), got)
        if shares[seed] is None:
            assert_same(f"evaluation {seed}", bare(network, inputs), got)
    assert run.kinds == [kinds.get(share, "partial") for share in shares]
    assert [c.computed for c in run.trace.calls()] == [len(r) for r in rows]
    assert run.trace.tokens == case.tokens


def test_one_frame_has_no_motion_and_is_decided_as_a_whole():
    settings = MotionCacheSettings(warmup_steps=1, uniform_updates=0, reuse_threshold=0.1)
    case = Case(size=(1, 6, 8))
    run = Run(case.network(), settings, profile=Steady(0.06))
    for seed in range(5):
        through(run, case.inputs(seed))
    assert run.kinds == ["dense", "reuse", "dense", "reuse", "dense"]
    assert "one latent frame has no motion" in run.trace.kv_reason


RUN = SampleOptions(steps=12, cfg=2.5)


def run_inputs(batch=1):
    rng = torch.Generator().manual_seed(4)
    texts = [torch.randn(batch, TEXT_TOKENS, TEXT_DIM, generator=rng) for _ in range(2)]
    return (*texts, torch.randn(batch, 16, 3, 6, 6, generator=rng))


@pytest.mark.parametrize("split", [False, True], ids=["batched", "split"])
@pytest.mark.parametrize("threshold, kinds", [(0.0, set()), (1e-30, {"dense"})])
def test_a_run_that_reuses_nothing_is_bit_identical(threshold, kinds, split):
    network, options = small_wan(), SampleOptions(steps=12, cfg=2.5, split=split)
    settings = MotionCacheSettings(reuse_threshold=threshold)
    wanted = sample(network, *run_inputs(), options)
    got, trace = cached_sample(network, *run_inputs(), options, settings, ops)
    assert_same("latents", wanted, got)
    assert {e.kind for e in trace.evaluations} == kinds
    assert len(trace.declined_calls) == (0 if kinds else (24 if split else 12))
    assert ("never reuse" in trace.reason) == (not kinds)


@pytest.mark.usefixtures("kept_in")
def test_a_run_in_inference_mode_and_in_half_precision():
    network = copy.deepcopy(small_wan()).to(torch.bfloat16)
    settings = MotionCacheSettings(warmup_steps=2, uniform_updates=1, reuse_threshold=0.1)
    facts = RunFacts(sigmas=flow_sigmas(12, 3.0), profile=Steady(0.06))
    texts = [t.to(torch.bfloat16) for t in run_inputs()]
    with torch.inference_mode():
        out, trace = cached_sample(network, *texts, RUN, settings, ops, facts)
    assert out.dtype == torch.bfloat16
    assert bool(torch.isfinite(out).all())
    assert {c.kind for c in trace.calls()} == {"dense", "partial", "reuse"}


@pytest.mark.parametrize("apart", [False, True])
def test_a_hosts_tensor_of_levels_in_inference_mode(apart):
    """The host samples in inference mode, where torch does not count writes to a tensor."""
    settings = MotionCacheSettings(warmup_steps=2, uniform_updates=1, reuse_threshold=0.1)
    run = Run(small_wan(), settings, profile=Steady(0.06))
    with torch.inference_mode():
        level = torch.empty(1)
        for step in range(8):
            # written to by the sampler, as some do
            level.fill_(1 - 0.1 * step)
            x, text = torch.randn(2, 16, 3, 4, 4), torch.randn(2, TEXT_TOKENS, TEXT_DIM)
            names = ("u", "c")
            for rows in (slice(0, 1), slice(1, 2)) if apart else (slice(0, 2),):
                options = {"sigmas": level}
                run.call(x[rows], 1000 * float(level), text[rows], names[rows], options)
    assert [e.sigma for e in run.trace.evaluations] == pytest.approx(
        [1 - 0.1 * step for step in range(8)]
    )
