"""Conditioning branches: as one batch, one after the other, together or with masks of their own."""

import functools
from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core import faults
from motioncache_pack.tests.core.faults import LEVELS, STEPS
from motioncache_pack.tests.core.oracle import WholeClip, random_rows
from motioncache_pack.tests.core.runs import Run, Steady, dictate
from motioncache_pack.tests.core.small_wan import CASES, TEXT_DIM, TEXT_TOKENS, small_wan
from motioncache_pack.tests.support.assert_close import assert_close

MOTION = MotionCacheSettings(
    warmup_steps=2, uniform_updates=1, reuse_threshold=0.1, agreement=0.5, min_update_ratio=0.1
)
# how the host groups the branches in a step
BATCHINGS = {
    "one batch": lambda step: [("u", "c")],
    "one after the other": lambda step: [("u",), ("c",)],
    "cond first": lambda step: [("c",), ("u",)],
    "switching": lambda step: [("u", "c")] if step % 5 < 3 else [("c",), ("u",)],
    "order changing": lambda step: [("u", "c") if step % 3 else ("c", "u")],
}


@functools.cache
def sampled(batching, settings=MOTION, **given):
    """Latents and trace of a run with guidance; the host batches as `batching` says."""
    return faults.sampled(settings, size=(3, 6, 6), grouping=BATCHINGS[batching], **given)


@pytest.mark.parametrize(
    "batching, cfg_mask, samples",
    [
        ("one after the other", "shared", 1),
        ("cond first", "shared", 2),
        ("cond first", "separate", 1),
        ("switching", "separate", 1),
        ("order changing", "shared", 2),
        ("order changing", "separate", 1),
    ],
)
def test_the_hosts_batching_changes_nothing(batching, cfg_mask, samples):
    settings = replace(MOTION, cfg_mask=cfg_mask)
    wanted, trace = sampled("one batch", settings, samples=samples)
    got, other = sampled(batching, settings, samples=samples)
    assert {c.kind for c in trace.calls()} == {"dense", "partial", "reuse"}
    # latents pass through 10 steps, each of which carries the rounding of the last one on
    assert_close("latents", wanted, got, tolerance=1e-4)
    assert by_level(trace) == by_level(other)


def by_level(trace):
    """Decisions of each noise level and scope of several, without regard to scope order."""
    return sorted(
        (-e.sigma, *(c.kind + str(c.active) for c in e.chunks)) for e in trace.evaluations
    )


def test_the_models_own_measure_serves_both_branches_alike():
    wanted, trace = sampled("one batch", profile=None)
    got, other = sampled("switching", profile=None)
    assert trace.distance == "input change"
    assert_close("latents", wanted, got, tolerance=1e-4)
    assert by_level(trace) == by_level(other)


def inputs(step, framewise=False):
    rng = torch.Generator().manual_seed(step)
    x = torch.randn(1, 16, 3, 6, 6, generator=rng)
    t = torch.full((1,), 1000 * LEVELS[step % 100])
    return x, t[:, None] - 40 * torch.arange(3) if framewise else t


def contexts():
    rng = torch.Generator().manual_seed(1)
    return [torch.randn(1, TEXT_TOKENS, TEXT_DIM, generator=rng) for _ in range(2)]


@pytest.mark.parametrize("framewise", [False, True])
def test_masks_of_their_own_in_one_batch_equal_two_runs(framewise):
    settings = replace(MOTION, cfg_mask="separate", motion_source="features", agreement=0.0)
    network, texts = small_wan(1, 2), contexts()
    both = Run(network, settings, sigmas=LEVELS, profile=Steady(0.06))
    alone = [Run(network, settings, sigmas=LEVELS, profile=Steady(0.06)) for _ in range(2)]
    for step in range(STEPS):
        # image conditions may make the branches' inputs differ
        (x, t), (other, _) = inputs(step, framewise), inputs(step + 100, framewise)
        names = ("u", "c")
        out = both.call(torch.cat((x, other)), torch.cat((t, t)), torch.cat(texts), names).chunk(2)
        for i, latent in enumerate((x, other)):
            wanted = alone[i].call(latent, t, texts[i], names[i : i + 1])
            assert_close(f"step {step}, {names[i]}", wanted, out[i])
    for run in (both, *alone):
        run.session.close()
    scopes = [[e for e in both.trace.evaluations if e.scope == f"branch {i}"] for i in range(2)]
    for mine, theirs in zip(scopes, alone, strict=True):
        assert [e.chunks for e in mine] == [e.chunks for e in theirs.trace.evaluations]
    masks = [[None if e.active is None else e.active.tolist() for e in s] for s in scopes]
    assert masks[0] != masks[1]
    assert "partial" in both.decided


@pytest.mark.parametrize("framewise, batched", [(True, True), (False, False)])
def test_each_branch_may_do_something_else(monkeypatch, framewise, batched):
    pairs = [
        ("dense", "dense"),
        (12, "reuse"),
        ("reuse", 5),
        ("dense", 7),
        (3, 26),
        ("reuse", "dense"),
        ("reuse", "reuse"),
        (1, 1),
    ]
    sizes = {"dense": 27, "reuse": 0}
    rows = [
        [random_rows(27, sizes.get(d, d), 10 * i + j) for j, d in enumerate(p)]
        for i, p in enumerate(pairs)
    ]
    entries = [
        d if isinstance(d, str) else r
        for p, rs in zip(pairs, rows, strict=True)
        for d, r in zip(p, rs, strict=True)
    ]
    dictate(monkeypatch, *entries)
    network, texts = small_wan(1, 2), contexts()
    settings = MotionCacheSettings(cfg_mask="separate")
    run = Run(network, settings)
    oracles = [WholeClip(network), WholeClip(network)]
    for step, active in enumerate(rows):
        x, t = inputs(step, framewise)
        if batched:
            pair, names = torch.cat((x, x)), ("u", "c")
            got = run.call(pair, torch.cat((t, t)), torch.cat(texts), names).chunk(2)
        else:
            got = [run.call(x, t, c, (n,)) for c, n in zip(texts, ("u", "c"), strict=True)]
        for j, oracle in enumerate(oracles):
            wanted = oracle.call(x, t, texts[j], active[j])
            assert_close(f"step {step}, branch {j}", wanted, got[j])
    if batched:
        # a batch runs as many rows as its busiest branch needs
        assert [c.computed for c in run.trace.calls()] == [27, 12, 5, 27, 26, 27, 0, 1]


def test_the_most_moving_sample_and_the_mean_of_branches_weigh_the_tokens():
    wanted, trace = sampled("one batch", samples=2)
    weights = [e.weight for e in trace.evaluations if e.weight is not None]
    assert weights
    assert wanted.shape[0] == 2
    # floor 0.6 of 255 up to 255, in every frame
    for weight in weights:
        frames = weight.reshape(3, 9)
        assert frames.min(axis=1).tolist() == [153] * 3
        assert frames.max(axis=1).tolist() == [255] * 3


def test_batch_rows_that_branches_cannot_share_pass_through():
    case = CASES["text to video"]
    run = Run(case.network())
    x, t, context, _ = case.inputs(0)
    out = run.call(torch.cat([x] * 3), torch.cat([t] * 3), torch.cat([context] * 3), ("a", "b"))
    assert_close("output", case.network()(x, t, context), out[:1])
    assert "3 batch rows cannot be shared by 2 branches" in run.trace.reason
