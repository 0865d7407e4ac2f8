"""One patched model sampled more than once: report and map are of the run that made the samples."""

import json
import random
from types import SimpleNamespace

import pytest
import torch
from motioncache_pack.motioncache_core.report.shown_run import mark_of


@pytest.fixture
def three(pack):
    """A patched model, its trace, and the latents of three runs of different lengths."""
    model, handle = pack.execute("MotionCachePatcher", pack.wan(), "balanced")
    made = [pack.sample(model, steps=steps, seed=steps) for steps in (11, 13, 17)]
    return handle, dict(zip((11, 13, 17), made, strict=True))


def report(pack, handle, latents):
    words, _, data = pack.execute("MotionCacheReport", handle, {"samples": latents})
    return words, json.loads(data)


@pytest.mark.parametrize("how", ["as it is", "half", "double", "a copy"])
def test_the_report_is_of_the_run_that_made_the_samples(pack, three, how):
    handle, made = three
    change = {"half": torch.Tensor.half, "double": torch.Tensor.double, "a copy": torch.clone}
    order = list(enumerate(made.items(), start=1))
    random.Random(how).shuffle(order)
    for number, (steps, latents) in order:
        words, data = report(pack, handle, change.get(how, lambda x: x)(latents))
        assert data["totals"]["evaluations"] == steps
        assert data["run"] == {"number": number, "of": 3, "from_samples": True}
        assert f"Shown: run {number} of 3 with this model, which made these samples" in words


def test_the_map_is_of_that_run_and_says_so(pack, three):
    handle, made = three
    node = pack.nodes["MotionCacheMotionMap"]
    for number, (steps, latents) in enumerate(made.items(), start=1):
        out = node.execute(handle, {"samples": latents}, "active", -1, "magma", 0.6)
        (words,) = out.ui["text"]
        assert words.startswith(f"run {number} of 3")
        sheets = node.execute(handle, {"samples": latents}, "active", steps - 1, "magma", 0.6)
        assert torch.equal(sheets.result[0], out.result[0])


def test_samples_of_no_run_show_the_last_one_and_say_so(pack, three):
    handle, made = three
    mine = made[11]
    for other in (mine + 1, mine[:, :, :2], mine.flip(-1), None, torch.empty(0)):
        words, data = report(pack, handle, other)
        assert data["run"] == {"number": 3, "of": 3, "from_samples": False}
        assert data["totals"]["evaluations"] == 17
        assert "the output of none that is remembered. Connect `samples`" in words


def test_the_same_latents_twice_show_the_newer_run(pack):
    model, handle = pack.execute("MotionCachePatcher", pack.wan(), "balanced")
    first, second = (pack.sample(model, steps=11) for _ in range(2))
    assert torch.equal(first, second)
    assert report(pack, handle, first)[1]["run"] == {"number": 2, "of": 2, "from_samples": True}


def test_one_run_alone_needs_no_words(pack):
    model, handle = pack.execute("MotionCachePatcher", pack.wan(), "balanced")
    pack.sample(model, steps=11)
    words, data = report(pack, handle, None)
    assert "Shown:" not in words and data["run"]["of"] == 1
    out = pack.nodes["MotionCacheMotionMap"].execute(
        handle, {"samples": None}, "active", -1, "magma", 0.6
    )
    assert "text" not in out.ui


def test_more_runs_than_are_remembered_are_still_counted(pack):
    model, handle = pack.execute("MotionCachePatcher", pack.wan(), "balanced")
    made = [pack.sample(model, steps=1, seed=seed) for seed in range(10)]
    assert report(pack, handle, made[9])[1]["run"]["number"] == 10
    assert report(pack, handle, made[4])[1]["run"] == {"number": 5, "of": 10, "from_samples": True}
    assert not report(pack, handle, made[0])[1]["run"]["from_samples"]


def test_a_trace_holds_no_latents(pack, three):
    handle, _ = three
    assert all(isinstance(n, float) for trace in handle.runs for n in trace.mark)
    assert {len(trace.mark) for trace in handle.runs} == {65}


@pytest.mark.parametrize("sizes", [(1,), (3, 5), (1000, 1, 77), (64,), (65, 0)])
def test_latents_in_parts_are_one(sizes):
    rng = torch.Generator().manual_seed(sum(sizes))
    parts = [torch.randn(1, n, generator=rng) for n in sizes]
    whole = mark_of(torch.cat(parts, dim=1))
    assert mark_of(SimpleNamespace(tensors=parts)) == whole
    assert whole[0] == sum(sizes) and len(whole) == 1 + min(64, sum(sizes))
