"""Graphs with ComfyUI's own networks of Wan's family, through its sampler and the pack's node."""

import pytest
import torch
from motioncache_pack.tests.core.runs import dictate, left_over, living_tensors
from motioncache_pack.tests.support import host_wan
from motioncache_pack.tests.support.answer_runs import patch, same, squared, unchanged
from motioncache_pack.tests.support.node_runs import network_of, options_of

pytestmark = pytest.mark.comfy

STEPS = 10
# one for each way in which their rows are handled
NAMES = (
    "fun control, reference", "fun camera", "phantom", "context latents", "scail 2", "vace",
    "vace, last block hinted", "s2v, motion", "animate", "humo", "dancer",
)  # fmt: skip


class Graph:
    """A model, and how it is sampled."""

    def __init__(self, pack, name, words=16, batch=1):
        self.pack, self.variant = pack, host_wan.VARIANTS[name]
        self.model = host_wan.load(pack.host, self.variant)
        self.texts = [host_wan.prompt(pack.host, self.variant, 1)]
        self.texts.append(host_wan.prompt(pack.host, self.variant, 2, words))
        self.latent = self.variant.latent.expand(batch, -1, -1, -1, -1).clone()

    @property
    def tokens(self):
        f, h, w = self.variant.grid
        return f * h * w

    def sample(self, model, steps=STEPS):
        return self.pack.host.run(model, *self.texts, self.latent, steps, cfg=3.0)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.mark.parametrize("preset", ["motion", "paper"])
def test_single_tokens_are_computed(pack, name, preset):
    graph = Graph(pack, name)
    wanted = graph.sample(graph.model, 16)
    kept, parts = options_of(graph.model), network_of(graph.model)
    patched, handle = patch(pack, graph.model, preset)
    got, trace = graph.sample(patched, 16), handle.latest
    assert trace.reason == "" and not trace.declined_calls and trace.model.startswith("Wan")
    assert torch.isfinite(got).all() and not same(got, wanted)
    if preset == "motion":
        assert {"partial", "dense"} <= {call.kind for call in trace.calls()}
        assert squared(got, wanted) < 0.05
    assert (options_of(graph.model), network_of(graph.model)) == (kept, parts)
    assert same(graph.sample(graph.model, 16), wanted)


def test_without_reuse_nothing_changes(pack, name):
    graph = Graph(pack, name)
    unchanged(pack, graph.model, graph.sample)


@pytest.mark.parametrize(
    ("words", "batch"), [(16, 1), (9, 1), (16, 2)], ids=["together", "apart", "two"]
)
def test_all_tokens_active_are_the_plain_run(pack, name, words, batch, monkeypatch):
    graph = Graph(pack, name, words, batch)
    wanted = graph.sample(graph.model)
    everything = range(graph.tokens)
    dictate(monkeypatch, "dense", *[everything] * (STEPS - 1))
    patched, handle = patch(pack, graph.model, "motion")
    assert squared(graph.sample(patched), wanted) < 1e-9
    kinds = [call.kind for call in handle.latest.calls()]
    assert kinds == ["dense"] * (1 + (words != 16)) + ["partial"] * (len(kinds) - 1 - (words != 16))


def test_an_interrupted_run_leaves_nothing(pack, name, monkeypatch):
    graph = Graph(pack, name)
    wanted = graph.sample(graph.model)
    rows = list(range(0, graph.tokens, 3))
    dictate(monkeypatch, "dense", *[rows] * STEPS)
    patched, _ = patch(pack, graph.model, "motion")
    last, calls = graph.model.model.diffusion_model.blocks[-1], []

    def broken(*args):
        calls.append(args[1][0].shape[1])
        if len(calls) == 4:
            raise KeyboardInterrupt

    hook, before = last.register_forward_pre_hook(broken), living_tensors()
    try:
        with pytest.raises(KeyboardInterrupt):
            graph.sample(patched)
    finally:
        hook.remove()
    assert calls[0] > calls[-1]
    calls.clear()
    assert left_over(before) == []
    assert same(graph.sample(graph.model), wanted)
