"""Evaluations whose computed tokens correct the others."""

import itertools
from dataclasses import replace

import pytest
import torch
from motioncache_pack import kernels as ops
from motioncache_pack.motioncache_core import PRESETS, MotionCacheSettings, RunFacts
from motioncache_pack.motioncache_core.demo import checkpoint, clips, scenes
from motioncache_pack.motioncache_core.demo.sampler import SampleOptions, cached_sample, sample
from motioncache_pack.tests.core.runs import Run, dictate
from motioncache_pack.tests.core.small_wan import CASES
from motioncache_pack.tests.support.assert_close import assert_close, assert_same

PLAIN = MotionCacheSettings(dense_last=False, max_stale_steps=0, kv_cache="gpu")


def outputs(case, settings, decisions, monkeypatch, steps=None, **facts):
    """What a gently changing clip gives, and the state that is left."""
    run = Run(case.network(), settings, **facts)
    dictate(monkeypatch, *decisions)
    x, _, context, more = case.inputs(0)
    change = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    outs = [
        run.call(x + 0.02 * i * change, 500.0 - 0.05 * i, context, **more)
        for i in range(steps or len(decisions))
    ]
    (table,) = run.session._clips.latest._tables.values()
    (state,) = {id(s): s for s in table.entries.values()}.values()
    held = state.residual.clone(), None if state.slope is None else state.slope.clone()
    run.session.close()
    return outs, held


def some_rows(tokens, share=0.7):
    rng = torch.Generator().manual_seed(8)
    return torch.randperm(tokens, generator=rng)[: int(share * tokens)].sort().values


class Watched:
    """The ops, and what went through them."""

    def __init__(self):
        self.seen = {}

    def __getattr__(self, name):
        def call(*args, **kwargs):
            copies = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
            result = getattr(ops, name)(*args, **kwargs)
            self.seen.setdefault(name, []).append((copies, result))
            return result

        return call


@pytest.mark.parametrize(
    "name, forecast",
    [("text to video", 1.0), ("image to video", 1.0), ("two samples", 0.0), ("odd sides", 1.0)],
)
def test_what_is_heard_is_added_to_the_forecast_and_kept(monkeypatch, name, forecast):
    case, at = CASES[name], 3
    rows = some_rows(case.tokens)
    settings = replace(PLAIN, forecast=forecast)

    def run(correction, last):
        watched = Watched()
        decisions = ["dense"] * at + [last]
        with monkeypatch.context() as patch:
            patch.setattr("motioncache_pack.tests.core.runs.ops", watched)
            outs, held = outputs(case, replace(settings, correction=correction), decisions, patch)
        return outs, held, watched.seen

    told, (residual, slope), seen = run(1.0, rows)
    plain, (left, same), before = run(0.0, rows)
    _, _, reused = run(0.0, "reuse")
    ((pred, new, listed, targets, sources, weight), corrected) = seen["correct_rows"][0]
    resting = [i for i in range(case.tokens) if i not in rows]
    assert (listed.tolist(), targets.tolist()) == (rows.tolist(), resting)
    # what the same evaluation would have answered if it were reused
    assert_same("forecast", reused["reuse_residual"][-1][1], pred)
    assert_same("computed", before["scatter_residual"][0][0][1], new)
    x = before["scatter_residual"][0][0][0]
    errors = torch.zeros_like(pred)
    errors[:, rows] = new - pred[:, rows]
    heard = torch.zeros_like(corrected)
    for i, k in itertools.product(range(len(resting)), range(sources.shape[1])):
        if sources[i, k] >= 0:
            heard[:, i] += weight[:, i, k, None] * errors[:, rows[sources[i, k]]]
    assert_close("heard", pred[:, resting] + heard, corrected)
    assert float(heard.norm()) > 0
    assert_close("kept", (corrected - x[:, resting]), residual[:, resting])
    assert_same("computed rows", left[:, rows], residual[:, rows])
    if forecast:
        # who was not computed learned no slope
        assert_same("slope", same, slope)
    for a, b in zip(told[:at], plain[:at], strict=True):
        assert_same("before", b, a)


@pytest.mark.parametrize("seed", [51, 52])
def test_on_the_demo_model_the_video_ends_closer(seed):
    network, profile = checkpoint.load(), checkpoint.profile()
    sampling = SampleOptions(steps=24, shift=checkpoint.SHIFT)
    scene = scenes.sample_scene(9, torch.Generator().manual_seed(seed))
    clip = clips.clip(scene, 9, take=seed)
    noise, more = clip.noise(seed), {"conditions": clip.conditions}
    true = sample(network, *clip.text, noise, sampling, **more)
    facts = RunFacts(sigmas=sampling.sigmas(), profile=profile)
    errors = []
    for strength in (0.0, 1.0):
        settings = replace(PRESETS["motion"], compute_budget=0.3, correction=strength)
        got, trace = cached_sample(
            network, *clip.text, noise, sampling, settings, ops, facts, **more
        )
        assert "partial" in {call.kind for call in trace.calls()}
        errors.append(float((got - true).norm()))
    assert errors[1] < 0.97 * errors[0]


def test_half_the_strength_goes_half_the_way(monkeypatch):
    case = CASES["one head"]
    decisions = ["dense", "dense", some_rows(case.tokens)]
    held = [
        outputs(case, replace(PLAIN, forecast=1.0, correction=c), decisions, monkeypatch)[1][0]
        for c in (0.0, 0.5, 1.0)
    ]
    # what is not corrected keeps its residual of the evaluation before
    resting = [i for i in range(case.tokens) if i not in decisions[2]]
    assert (held[2] - held[1])[:, resting].norm() > 1e-4
    outs = [
        outputs(case, replace(PLAIN, forecast=1.0, correction=c), decisions, monkeypatch)[0][2]
        for c in (0.0, 0.5, 1.0)
    ]
    assert_close("half way", (outs[0] + outs[2]) / 2, outs[1])


def test_a_chunk_that_is_reused_hears_nothing_of_its_neighbour(monkeypatch):
    case = CASES["text to video"]
    half = case.tokens // 2
    rows = some_rows(half)
    settings = replace(PLAIN, forecast=1.0)
    decisions = ["dense"] * 4 + ["reuse", rows]
    (told, (corrected, _)), (plain, (left, _)) = (
        outputs(case, replace(settings, correction=c), decisions, monkeypatch, 3, chunks=(2, 2))
        for c in (1.0, 0.0)
    )
    resting = [half + i for i in range(half) if i not in rows]
    assert torch.equal(corrected[:, :half], left[:, :half])
    assert float((corrected - left)[:, resting].norm(dim=-1).min()) > 0
    assert torch.equal(told[2][:, :, :2], plain[2][:, :, :2])
    assert float((told[2] - plain[2])[:, :, 2:].norm()) > 1e-3


def test_tokens_that_were_not_computed_the_last_time_tell_nothing(monkeypatch):
    case = CASES["one head"]
    settings = replace(PLAIN, forecast=1.0, correction=1.0)
    half = torch.arange(0, case.tokens, 2)
    other = torch.arange(1, case.tokens, 2)
    seen = []
    original = ops.correct_rows

    def spy(pred, new, rows, targets, sources, weight):
        seen.append(sources)
        return original(pred, new, rows, targets, sources, weight)

    monkeypatch.setattr(ops, "correct_rows", spy)
    outputs(case, settings, ["dense", "dense", half, other, other], monkeypatch)
    assert (seen[0] >= 0).any()
    # half of them rested at the evaluation before, the other half is not computed
    assert (seen[1] < 0).all()
    assert (seen[2] >= 0).any()


def test_whole_evaluations_are_as_they_were(monkeypatch):
    case = CASES["text to video"]
    decisions = ["dense", "dense", "reuse", "dense", "reuse"]
    both = [
        outputs(
            case,
            replace(PLAIN, forecast=1.0, kv_forecast=0.5, correction=c),
            decisions,
            monkeypatch,
        )[0]
        for c in (0.0, 1.0)
    ]
    for i, (a, b) in enumerate(zip(*both, strict=True)):
        assert_same(f"call {i}", a, b)
