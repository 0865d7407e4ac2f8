"""What samplers and guidance do to a run: batching, step counts, second-order, masks."""

import json
import logging

import pytest
import torch
from motioncache_pack.tests.support.node_runs import STEPS, decisions, marks


def error(got, wanted):
    return ((got - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("mask", ["shared", "separate"])
def test_guidance_in_one_batch_or_two_calls_decides_alike(pack, mask, monkeypatch):
    settings = {"kv_cache": "gpu", "cfg_mask": mask}
    together, one = pack.cached(settings=settings)
    pack.host.run_short_of_memory(monkeypatch)
    apart, two = pack.cached(settings=settings)
    assert [len(e.calls) for e in one.evaluations][:2] == ([1, 1] if mask == "shared" else [1, 0])
    assert len(two.calls()) == 2 * len(one.calls()) == 2 * STEPS
    found = [sorted((s, c) for s, c in decisions(trace)) for trace in (one, two)]
    assert found[0] == found[1]
    assert {"D", "p", "."} <= set(marks(one))
    assert error(apart, together) < 1e-4


def test_memory_that_gets_short_in_mid_run_mixes_no_branches(pack):
    settings = {"kv_cache": "gpu"}
    wanted, _ = pack.cached(settings=settings)
    short = pytest.MonkeyPatch()

    def callback(step, *_):
        if step == 4:
            pack.host.run_short_of_memory(short)
        elif step == 9:
            short.undo()

    try:
        got, trace = pack.cached(settings=settings, callback=callback)
    finally:
        short.undo()
    assert [len(e.calls) for e in trace.evaluations] == [1] * 5 + [2] * 5 + [1] * 4
    assert {"p", "."} <= set(marks(trace)[5:10])
    assert {c.note for c in trace.calls()} == {""}
    assert error(got, wanted) < 1e-4


def test_short_memory_reuses_whole_clips_and_says_so(pack, monkeypatch):
    pack.host.run_short_of_memory(monkeypatch)
    _, trace = pack.cached()
    assert set(marks(trace)) == {"D", "."}
    assert "0 MiB are free" in trace.kv_reason
    assert trace.kv_bytes == 0


def test_texts_of_different_length_stay_apart(pack):
    negative = pack.host.text(2, tokens=8)
    got, trace = pack.cached(negative=negative)
    assert [c.branches for c in trace.calls()] == [1] * 2 * STEPS
    assert error(got, pack.sample(pack.wan(), negative=negative)) < 0.01


def test_cfg_one_keeps_one_branch(pack):
    got, trace = pack.cached(cfg=1.0)
    _, guided = pack.cached()
    assert {c.branches for c in trace.calls()} == {1}
    assert 2 * trace.kv_bytes == guided.kv_bytes > 0
    assert 2 * trace.residual_bytes == guided.residual_bytes
    assert error(got, pack.sample(pack.wan(), cfg=1.0)) < 0.01


def test_a_batch_of_two_alike_equals_one(pack):
    noise = torch.randn(1, 16, 3, 8, 8)

    def run(noise):
        model, handle = pack.patch(pack.wan())
        return pack.guide(model, noise)[1](), handle.latest

    (one, single), (two, double) = run(noise), run(noise.repeat(2, 1, 1, 1, 1))
    assert {c.rows for c in double.calls()} == {4}
    assert decisions(single) == decisions(double)
    assert error(two, one.repeat(2, 1, 1, 1, 1)) < 1e-4


def test_samples_of_a_batch_keep_their_own_tokens(pack):
    latent = pack.host.latent().repeat(2, 1, 1, 1, 1)
    got, trace = pack.cached(latent=latent)
    wanted = pack.sample(pack.wan(), latent=latent)
    assert {"p", "."} <= set(marks(trace))
    for i in range(2):
        assert error(got[i], wanted[i]) < 0.01
    assert error(got[0], wanted[1]) > 0.5


def test_second_order_evaluations_at_one_noise_level(pack):
    got, trace = pack.cached(sampler="heun")
    sigmas = [e.sigma for e in trace.evaluations]
    assert len(sigmas) == 2 * STEPS - 1
    assert len(set(sigmas)) == STEPS
    assert all(len(e.calls) == 1 for e in trace.evaluations)
    # warm-up counts noise levels: the second look at the second one is warm-up too
    phases = [e.chunks[0].phase for e in trace.evaluations]
    assert [i for i, phase in enumerate(phases) if phase == "warm-up"] == [0, 1, 2]
    assert phases[-2:] == ["last", "last"]
    assert "." in marks(trace)
    assert error(got, pack.sample(pack.wan(), sampler="heun")) < 0.01


def test_few_steps_reuse_nothing_and_say_so_once(pack, caplog):
    patched, handle = pack.patch(pack.wan())
    with caplog.at_level(logging.INFO):
        got = pack.sample(patched, steps=8)
    assert torch.equal(got, pack.sample(pack.wan(), steps=8))
    lines = [r.getMessage() for r in caplog.records if "MotionCache" in r.getMessage()]
    assert len(lines) == 1
    assert "nothing was reused: 8 sampling steps" in lines[0]
    words, _, data = pack.execute("MotionCacheReport", handle, {})
    assert "8 sampling steps" in words
    found = json.loads(data)
    assert "Use more steps" in found["reason"]
    assert found["totals"]["declined_calls"] == found["totals"]["calls"] == 8


@pytest.mark.parametrize(("steps", "warned"), [(14, True), (15, False)])
def test_fewer_than_fifteen_steps_are_warned_of(pack, caplog, steps, warned):
    patched, handle = pack.patch(pack.wan())
    with caplog.at_level(logging.WARNING):
        pack.sample(patched, steps=steps)
    trace = handle.latest
    assert trace.reason == ""
    assert "." in marks(trace)
    words, _, data = pack.execute("MotionCacheReport", handle, {})
    logged = [r.getMessage() for r in caplog.records if "sampling steps" in r.getMessage()]
    sentence = f"{steps} sampling steps: "
    assert [sentence in line for line in logged] == [True] * warned
    assert (sentence in words) is warned
    assert [r.startswith(sentence) for r in json.loads(data)["remarks"]] == [True] * warned


@pytest.mark.parametrize("percent", [0.0, 0.3])
def test_everything_after_the_end_is_computed(pack, percent):
    _, trace = pack.cached(settings={"end_percent": percent, "reuse_threshold": 5.0})
    schedule = pack.wan().get_model_object("model_sampling")
    end = float(schedule.percent_to_sigma(percent))
    after = [e.kind for e in trace.evaluations if e.sigma <= end]
    before = [e.kind for e in trace.evaluations if e.sigma > end][2:]
    assert set(after) == {"dense"}
    assert set(before) <= {"reuse", "dense"}
    assert ("reuse" in before) == (percent > 0)


@pytest.mark.parametrize("ends", [False, True])
def test_only_a_run_that_removes_all_noise_ends_in_a_full_evaluation(pack, ends):
    # as the high-noise half of two samplers in a row, which is not the end of the video
    kwargs = {"steps": 24, "last_step": 14, "settings": {"reuse_threshold": 5.0}}
    _, trace = pack.cached(force_full_denoise=ends, **kwargs)
    assert marks(trace) == "DD" + "." * 8 + "D.." + ("D" if ends else ".")


def test_the_first_part_of_a_schedule_can_be_too_short(pack):
    _, trace = pack.cached(steps=24, last_step=8)
    assert "8 sampling steps" in trace.reason


def test_the_second_part_of_a_schedule(pack):
    first = pack.sample(pack.wan(), steps=24, last_step=10)
    kwargs = {"steps": 24, "latent": first, "start_step": 10}
    got, trace = pack.cached(**kwargs)
    assert len(trace.evaluations) == 14
    assert marks(trace)[:2] + marks(trace)[-1] == "DDD"
    assert {"p", "."} & set(marks(trace))
    assert error(got, pack.sample(pack.wan(), **kwargs)) < 0.01


def test_partial_denoise(pack):
    latent = torch.randn(1, 16, 3, 8, 8)
    got, trace = pack.cached(latent=latent, denoise=0.6)
    assert len(trace.evaluations) == STEPS
    assert trace.evaluations[0].sigma < 0.99
    assert {"p", "."} & set(marks(trace))
    assert error(got, pack.sample(pack.wan(), latent=latent, denoise=0.6)) < 0.01


def test_a_noise_mask_keeps_the_rest(pack):
    latent, mask = torch.randn(1, 16, 3, 8, 8), torch.zeros(1, 1, 3, 8, 8)
    mask[..., 4:] = 1.0
    got, trace = pack.cached(latent=latent, noise_mask=mask)
    assert {"p", "."} & set(marks(trace))
    assert error(got[..., :4], latent[..., :4]) < 1e-5
    wanted = pack.sample(pack.wan(), latent=latent, noise_mask=mask)
    assert error(got, wanted) < 0.01
    assert error(got[..., 4:], latent[..., 4:]) > 0.5


def test_sizes_that_the_patch_does_not_fit(pack):
    latent = pack.host.latent(frames=2, height=7, width=9)
    got, trace = pack.cached(latent=latent)
    assert trace.grid == (2, 4, 5)
    assert got.shape == latent.shape
    assert error(got, pack.sample(pack.wan(), latent=latent)) < 0.01
