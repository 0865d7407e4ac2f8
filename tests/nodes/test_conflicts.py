"""What the nodes refuse: they say what was given and what to do, and change nothing."""

import logging

import pytest
import torch
from motioncache_pack.motioncache_core import (
    CacheShapeError,
    ConflictError,
    MotionCacheSettings,
    SettingsError,
    UnsupportedModelError,
)
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.tests.support.node_runs import options_of


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
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, *args, **kwargs):
        return self.weight * x


def test_an_unknown_model(pack, refused):
    model = pack.host.patcher(OtherNetwork())
    refused(model, UnsupportedModelError, r"does not know .*Supported: Wan \(WanModel.*Remove")


def vace(pack):
    """A VACE model: ComfyUI's own, or a network with its name on the stand-in."""
    if pack.host.is_standin:
        kind = type("VaceWanModel", (DemoWan,), {"__module__": "comfy.ldm.wan.model"})
        return pack.host.patcher(kind(dim=128, ffn_dim=256, num_layers=2))
    import comfy.ops
    from comfy.ldm.wan.model import VaceWanModel

    network = VaceWanModel(
        dim=128, ffn_dim=256, num_heads=1, num_layers=2, vace_layers=1, vace_in_dim=96,
        dtype=torch.float32, operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    network.runs_wrappers = True
    return pack.host.patcher(network)


def test_a_variant_that_is_declined_comes_back_unpatched(pack, caplog):
    model = vace(pack)
    before = options_of(model)
    with caplog.at_level(logging.WARNING):
        patched, handle = pack.patch(model)
    assert options_of(patched) == options_of(model) == before
    warnings = [r.getMessage() for r in caplog.records if "MotionCache" in r.getMessage()]
    assert len(warnings) == 1
    assert "VaceWanModel is not supported yet" in warnings[0]
    assert "VACE blocks add to the tokens" in handle.latest.reason

    caplog.clear()
    if pack.host.is_standin:
        assert torch.equal(pack.sample(patched), pack.sample(model))
    assert "MotionCache" not in caplog.text
    words, _, _ = pack.execute("MotionCacheReport", handle, {})
    assert "VaceWanModel is not supported yet" in words


def test_an_unknown_preset(pack):
    with pytest.raises(SettingsError, match=r"preset is 'turbo'; allowed are 'quality'.*settings"):
        pack.execute("MotionCachePatcher", pack.wan(), "turbo")


def test_every_setting_reaches_its_own_field_and_is_checked(pack):
    given = {
        "policy": "chunk", "warmup_steps": 3, "motion_sensitivity": 0.11, "reuse_threshold": 0.12,
        "uniform_updates": 4, "agreement": 0.13, "min_update_ratio": 0.14, "max_stale_steps": 5,
        "end_percent": 0.95, "motion_source": "residual", "forecast": 0.15, "cfg_mask": "separate",
        "kv_cache": "cpu", "verbose": True, "kv_forecast": 0.16, "update_share": 0.17,
        "compute_budget": 0.6, "correction": 0.18,
    }  # fmt: skip
    (settings,) = pack.execute("MotionCacheSettings", **given)
    assert settings == MotionCacheSettings(**given)
    assert MotionCacheSettings().as_dict().items().isdisjoint(given.items())
    with pytest.raises(SettingsError, match=r"^warmup_steps is 0.*(allowed are|give)"):
        pack.execute("MotionCacheSettings", **{**given, "warmup_steps": 0})


def test_an_image_latent(pack):
    patched, handle = pack.patch(pack.wan())
    calls = count_calls(pack, patched)
    _, run = pack.guide(patched, torch.randn(1, 16, 8, 8))
    with pytest.raises(CacheShapeError, match=r"\(1, 16, 8, 8\).*frames.*empty video latent"):
        run()
    assert calls == []
    assert handle.latest is None


def test_a_guider_that_is_used_twice(pack):
    noise = torch.randn(1, 16, 3, 8, 8)
    patched, handle = pack.patch(pack.wan())
    guider, run = pack.guide(patched, noise)
    options = guider.model_options
    assert torch.equal(run(), run())
    assert guider.model_options is options
    assert len(handle.runs) == 2
