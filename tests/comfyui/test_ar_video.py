"""ComfyUI's autoregressive Wan with its own sampler: block of frames by block, with keys and values
that the network keeps. Where a call is left out, these are left as the call would leave them."""

import importlib
import json
from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.motioncache_core.report.compute_share import compute_share
from motioncache_pack.tests.core.runs import dictate, left_over, living_tensors
from motioncache_pack.tests.support import host_wan
from motioncache_pack.tests.support.answer_runs import (
    SHARE,
    Scene,
    patch,
    same,
    squared,
    unchanged,
)
from motioncache_pack.tests.support.node_runs import network_of, options_of

pytestmark = pytest.mark.comfy

VARIANT = host_wan.Variant(
    "model.WanModel", {"model_type": "t2v", "in_dim": 16, "num_layers": 3}, size=(6, 8, 8),
    metadata={"config": json.dumps({"transformer": {"causal_ar": True}})}, loaded="CausalWanModel",
)  # fmt: skip
STEPS, BLOCK = 10, 3
ROWS = BLOCK * 16


@pytest.fixture
def no_wait(pack, monkeypatch):
    """What a call is for has to be known without a look at its noise level."""
    entry = importlib.import_module("motioncache_pack.nodes.host.model_entry")
    monkeypatch.setattr(entry, "read", lambda numbers: pytest.fail("the host waits for the device"))


class Graph:
    """The model and its sampler."""

    def __init__(self, pack, frames=6, batch=1):
        self.model = host_wan.load(pack.host, VARIANT)
        latent = torch.zeros(batch, 16, frames, 8, 8)
        self.scene = Scene(
            pack, self.model, pack.host.text(1), pack.host.text(2), latent, cfg=1.0, steps=STEPS
        )
        self.sampler = pack.host.samplers.ksampler("ar_video", {"num_frame_per_block": BLOCK})

    def sample(self, model, steps=STEPS):
        return replace(self.scene, steps=steps).through(model, self.sampler)


def test_without_reuse_nothing_changes(pack):
    graph = Graph(pack)
    unchanged(pack, graph.model, graph.sample)


def test_few_steps_are_left_alone(pack):
    """What the distilled models take."""
    graph = Graph(pack)
    patched, handle = patch(pack, graph.model, "balanced")
    assert same(graph.sample(patched, 4), graph.sample(graph.model, 4))
    assert code_of(handle.latest.reason) == "few_steps"


@pytest.mark.parametrize(("frames", "batch"), [(6, 1), (5, 2)], ids=["even", "two, uneven"])
def test_all_tokens_active_are_the_plain_run(pack, frames, batch, monkeypatch):
    graph = Graph(pack, frames, batch)
    wanted = graph.sample(graph.model)
    blocks = [ROWS, (frames - BLOCK) * 16]
    dictate(monkeypatch, *[d for n in blocks for d in ["dense", *[range(n)] * (STEPS - 1)]])
    patched, handle = patch(pack, graph.model, "motion")
    assert squared(graph.sample(patched), wanted) < 1e-9
    kinds = [call.kind for e in handle.latest.evaluations for call in e.calls]
    assert kinds == ["dense", *["partial"] * (STEPS - 1)] * 2


@pytest.mark.parametrize("preset", ["balanced", "motion", "paper"])
def test_calls_are_reused(pack, preset, no_wait):
    graph = Graph(pack)
    wanted = graph.sample(graph.model)
    kept, parts = options_of(graph.model), network_of(graph.model)
    patched, handle = patch(pack, graph.model, preset)
    got, trace = graph.sample(patched), handle.latest
    assert trace.reason == "" and torch.isfinite(got).all()
    assert trace.model == "Wan, autoregressive" and trace.grid == (3, 4, 4)
    # the calls that write a block of frames
    assert [code_of(call.note) for call in trace.declined_calls] == ["cache_written"] * 2
    if preset != "paper":
        kinds = {call.kind for e in trace.evaluations for call in e.calls}
        assert ("partial" if preset == "motion" else "reuse") in kinds
        assert 0 < squared(got, wanted) < 0.2
    assert (options_of(graph.model), network_of(graph.model)) == (kept, parts)
    assert same(graph.sample(graph.model), wanted)


def test_a_reused_run_comes_closer_than_fewer_steps_would(pack):
    """The residual of the last call of these frames, at the new noise level."""
    graph = Graph(pack)
    wanted = graph.sample(graph.model, 16)
    patched, handle = patch(pack, graph.model, "balanced")
    error = squared(graph.sample(patched, 16), wanted)
    computed = sum(call.kind == "dense" for call in handle.latest.calls()) / 2
    assert computed < 9
    assert error < squared(graph.sample(graph.model, 9), wanted)


def test_an_image_to_begin_with(pack, no_wait):
    """Its keys and values are written by a call of its own, at noise level 0."""
    graph = Graph(pack)
    model = graph.model.clone()
    model.model_options["transformer_options"]["ar_config"] = {
        "initial_latent": host_wan.drawn(1, 16, 1, 8, 8)
    }
    wanted = graph.sample(model)
    patched, handle = patch(pack, model, "motion")
    got = graph.sample(patched)
    assert 0 < squared(got, wanted) < 0.2 and same(got[:, :, :1], wanted[:, :, :1])
    assert len(handle.latest.declined_calls) == 3


def test_an_ordinary_sampler(pack):
    """Which has the network see all frames at once."""
    graph = Graph(pack)
    wanted = graph.scene.sample(graph.model)
    patched, handle = patch(pack, graph.model, "motion")
    assert 0 < squared(graph.scene.sample(patched), wanted) < 0.1
    assert "partial" in {call.kind for call in handle.latest.calls()}


def test_an_interrupted_run_leaves_nothing(pack, monkeypatch):
    graph = Graph(pack)
    wanted = graph.sample(graph.model)
    dictate(monkeypatch, "dense", *[range(9)] * 30)
    patched, _ = patch(pack, graph.model, "motion")
    network, calls = graph.model.model.diffusion_model, []

    def broken(*_):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt

    hook, before = network.blocks[-1].register_forward_pre_hook(broken), living_tensors()
    try:
        with pytest.raises(KeyboardInterrupt):
            graph.sample(patched)
    finally:
        hook.remove()
    assert "blocks" not in vars(network)
    assert left_over(before) == []
    assert same(graph.sample(graph.model), wanted)


def test_a_call_that_ran_out_of_memory_is_made_again(pack, monkeypatch):
    """By then some layers have written what they keep."""
    graph = Graph(pack)
    wanted = graph.sample(graph.model)
    dictate(monkeypatch, "dense", *[range(ROWS)] * 9, "dense", *[range(ROWS)] * 9)
    patched, handle = patch(pack, graph.model, "motion")
    calls = []

    def scarce(*_):
        calls.append(1)
        if len(calls) == 4:
            raise torch.OutOfMemoryError("scarce")

    block = graph.model.model.diffusion_model.blocks[-1]
    hook = block.register_forward_pre_hook(scarce)
    try:
        got = graph.sample(patched)
    finally:
        hook.remove()
    assert squared(got, wanted) < 1e-9
    assert code_of(handle.latest.reason) == "" and len(handle.latest.declined_calls) == 3


@pytest.mark.parametrize("told", [True, False], ids=["told in the file", "not told"])
@pytest.mark.parametrize("preset", ["balanced", "motion"])
def test_a_teacher_of_many_steps_by_our_sampler(pack, preset, told):
    """A block of frames after the other, as in the workflow, 30 steps each. ComfyUI takes a file
    that does not say what it holds for an ordinary Wan."""
    steps = 30
    variant = VARIANT if told else replace(VARIANT, metadata={}, loaded="WanModel")
    model, latent = host_wan.load(pack.host, variant), torch.zeros(1, 16, 6, 8, 8)
    texts = [pack.host.text(seed) for seed in (1, 2)]
    scene = Scene(pack, model, *texts, latent, cfg=3.0, steps=steps)
    (sampler,) = pack.execute(
        "MotionCacheDiffusionForcing", chunk_frames=BLOCK, chunk_delay=steps, solver="unipc",
        attention="block_causal", condition_noise=0.0, window_frames=0, overlap_frames=0, kv_keep=0,
    )  # fmt: skip
    wanted = scene.through(model, sampler)
    patched, handle = patch(pack, model, preset)
    error, trace = squared(scene.through(patched, sampler), wanted), handle.latest
    assert not trace.reason and len(trace.evaluations) == 2 * steps
    assert compute_share(trace) == pytest.approx(SHARE, abs=0.5 / steps)
    fewer = replace(scene, steps=round(SHARE * steps))
    assert 0 < error < squared(fewer.through(model, sampler), wanted)
