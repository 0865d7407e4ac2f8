"""What the nodes refuse: they say what was given and what to do, and change nothing. They do not
refuse a model whose tokens are not known: its evaluations are foretold."""

import importlib
from types import SimpleNamespace

import pytest
import torch
from motioncache_pack.motioncache_core import (
    ConflictError,
    SettingsError,
)
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.tests.support.node_runs import STEPS, foretold, marks, options_of


@pytest.fixture
def refused(pack):
    """Patching this model raises the error and leaves the model as it was."""

    def check(model, error, match):
        before = options_of(model)
        with pytest.raises(error, match=match):
            pack.patch(model)
        assert options_of(model) == before

    return check


def count_calls(pack, model):
    """A list that grows with every call of the network."""
    calls = []
    kind = pack.host.patcher_extension.WrappersMP.DIFFUSION_MODEL
    model.add_wrapper_with_key(
        kind, "count", lambda run, *a, **k: (calls.append(1), run(*a, **k))[1]
    )
    return calls


def test_a_second_node_on_one_model(pack, refused):
    patched, _ = pack.patch(pack.wan())
    refused(patched, ConflictError, "already has MotionCache.*settings node")
    refused(patched.clone(), ConflictError, "already has MotionCache")
    assert torch.equal(pack.sample(patched), pack.cached()[0])


def test_two_nodes_on_one_loader_are_no_conflict(pack):
    model = pack.wan()
    (first, one), (second, two) = pack.patch(model), pack.patch(model, reuse_threshold=0.0)
    pack.sample(first)
    assert torch.equal(pack.sample(second), pack.sample(model))
    assert len(one.runs) == len(two.runs) == 1


# what the caches' nodes leave on a model; the real EasyCache is tried in tests/comfyui
OTHERS = {"easycache": "EasyCache", "rel_l1_thresh": "TeaCache", "magcache_thresh": "MagCache"}


def test_another_cache_before(pack, refused):
    for key, name in OTHERS.items():
        model = pack.wan()
        model.model_options["transformer_options"][key] = object()
        refused(model, ConflictError, f"{name}.*Remove one of them")


def test_another_cache_behind(pack):
    key = "easycache"
    patched, handle = pack.patch(pack.wan())
    calls = count_calls(pack, patched)
    later = patched.clone()
    later.model_options["transformer_options"][key] = object()
    with pytest.raises(ConflictError, match=f"{OTHERS[key]}.*Remove one of them"):
        pack.sample(later)
    assert calls == []
    assert handle.latest is None
    assert torch.equal(pack.sample(patched), pack.cached()[0])


class OtherNetwork(torch.nn.Module):
    """Of no known class, for latents of any shape."""

    dtype, runs_wrappers = torch.float32, True
    # where the real host reads how many channels a network takes
    patch_embedding = SimpleNamespace(weight=torch.empty(1, 16))

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, *args, **kwargs):
        return self.weight * x


SHARE = round(0.4 * STEPS)


@pytest.mark.parametrize("shape", [(1, 16, 3, 8, 8), (1, 16, 8, 8)], ids=["video", "image"])
def test_a_model_and_a_latent_of_any_kind(pack, shape, caplog):
    network, noise, calls = OtherNetwork(), torch.randn(shape), []
    network.register_forward_hook(lambda *_: calls.append(1))
    model = pack.host.patcher(network)
    wanted = pack.guide(model, noise)[1]()
    before = options_of(model)
    off, _ = pack.patch(model, reuse_threshold=0.0)
    assert torch.equal(pack.guide(off, noise)[1](), wanted)
    made = {}
    for preset in ("balanced", "motion"):
        patched, handle = pack.execute("MotionCachePatcher", model, preset)
        calls.clear()
        made[preset] = pack.guide(patched, noise)[1]()
        assert len(calls) == marks(handle.latest).count("D") == SHARE
        assert 0 < (made[preset] - wanted).norm() < 0.01 * wanted.norm()
    assert torch.equal(made["balanced"], made["motion"])
    assert options_of(model) == before
    why, _ = foretold(handle.latest)
    words, _, _ = pack.execute("MotionCacheReport", handle, {})
    if len(shape) == 5:
        assert "OtherNetwork is not known block by block" in why
    else:
        assert "the latent has shape (1, 16, 8, 8), which is no video" in why
    assert f"MotionCache - {why}." in caplog.text and f"Note: {why}" in words
    assert f"Model: OtherNetwork, {shape[2] if len(shape) == 5 else 1}x8x8 tokens" in words


def of_class(pack, name, base="WanModel", **arguments):
    """A model of a class of this name: a subclass of ComfyUI's own, or of a network with its hooks
    on the stand-in."""
    module = "comfy.ldm.wan.model"
    if pack.host.is_standin:
        kind = type(name, (DemoWan,), {"__module__": module})
        return pack.host.patcher(kind(dim=128, ffn_dim=256, num_layers=2))
    operations = importlib.import_module("comfy.ops").disable_weight_init
    found = getattr(importlib.import_module(module), base)
    kind = found if base == name else type(name, (found,), {"__module__": module})
    network = kind(
        dim=128, ffn_dim=256, num_heads=1, num_layers=2, dtype=torch.float32,
        operations=operations, **arguments,
    )  # fmt: skip
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    network.runs_wrappers = True
    return pack.host.patcher(network)


def vace(pack):
    return of_class(pack, "VaceWanModel", "VaceWanModel", vace_layers=1, vace_in_dim=96)


def unchecked(pack):
    return of_class(pack, "WanModel_X")


def test_a_variant_that_is_declined_has_its_evaluations_foretold(pack):
    model = unchecked(pack)
    before = options_of(model)
    patched, handle = pack.patch(model)
    off, _ = pack.patch(model, reuse_threshold=0.0)
    wanted = pack.sample(model)
    assert torch.equal(pack.sample(off), wanted)
    made = pack.sample(patched)
    assert options_of(model) == before
    why, computed = foretold(handle.latest)
    assert computed == SHARE and 0 < (made - wanted).norm() < 0.1 * wanted.norm()
    assert "WanModel_X is not known block by block yet: this variant has not been checked" in why
    words, _, _ = pack.execute("MotionCacheReport", handle, {})
    assert f"Note: {why}" in words


class Silent:
    """A control net, as a host uses it, that has nothing to add."""

    previous_controlnet, extra_hooks, multigpu_clones = None, None, {}

    def get_extra_hooks(self):
        return []

    def get_models(self):
        return []

    def pre_run(self, *_):
        pass

    def cleanup(self):
        pass

    def get_control(self, *_):
        return None

    def inference_memory_requirements(self, _):
        return 0


def controlled(pack, **settings):
    """A run beside a control net: latents, and the trace handle."""
    patched, handle = pack.patch(pack.wan(), **settings)
    guider, run = pack.guide(patched, torch.ones(1, 16, 3, 8, 8))
    for cond in guider.original_conds["positive"]:
        cond["control"] = Silent()
    return run(), handle


def test_beside_a_control_net_whole_evaluations_are_foretold(pack):
    _, handle = controlled(pack)
    why, computed = foretold(handle.latest)
    assert "a control net adds to the tokens between blocks" in why and computed == SHARE


def test_an_unknown_preset(pack):
    with pytest.raises(
        SettingsError, match=r"preset is 'turbo'; allowed are 'off', 'quality'.*settings"
    ):
        pack.execute("MotionCachePatcher", pack.wan(), "turbo")


def test_a_setting_out_of_its_range(pack):
    with pytest.raises(SettingsError, match=r"^warmup_steps is 0.*(allowed are|give)"):
        pack.execute("MotionCacheSettings", warmup_steps=0)


def test_a_guider_that_is_used_twice(pack):
    noise = torch.randn(1, 16, 3, 8, 8)
    patched, handle = pack.patch(pack.wan())
    guider, run = pack.guide(patched, noise)
    options = guider.model_options
    assert torch.equal(run(), run())
    assert guider.model_options is options
    assert len(handle.runs) == 2
