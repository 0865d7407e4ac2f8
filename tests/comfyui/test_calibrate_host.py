"""Profiles on the real ComfyUI: patched weights, its samplers, the demo model."""

import importlib
import json

import pytest
import torch
from motioncache_pack.motioncache_core import MotionCacheSettings
from motioncache_pack.tests.comfyui.test_ar_video import Graph
from motioncache_pack.tests.comfyui.test_hidden_blocks_host import KINDS
from motioncache_pack.tests.support.answer_runs import same
from motioncache_pack.tests.support.node_runs import STEPS

pytestmark = pytest.mark.comfy


@pytest.fixture
def folder(pack, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.import_module("folder_paths"), "models_dir", str(tmp_path))
    return tmp_path / "motioncache"


@pytest.fixture
def identify(pack):
    return importlib.import_module("motioncache_pack.nodes.host.profiles").identify


def with_lora(model):
    """A clone with a LoRA's kind of patch on a matrix and, as some have it, on biases."""
    clone = model.clone()
    network = model.model.diffusion_model
    patches = {
        f"diffusion_model.{name}": ("diff", (torch.randn_like(weight),))
        for name, weight in network.named_parameters()
        if name.startswith("blocks.0.") and name.endswith(("bias", "modulation", "q.weight"))
    }
    assert len(clone.add_patches(patches, 1.0)) == len(patches) > 5
    return clone


def test_a_lora_changes_no_fingerprint_before_during_and_after_its_run(
    pack, folder, identify
):  # fmt: skip
    model = pack.wan()
    wanted = identify(model)
    patched = with_lora(model)
    seen = []

    def look(executor, *args, **kwargs):
        seen.extend((identify(patched), identify(model)))
        return executor(*args, **kwargs)

    kind = pack.host.patcher_extension.WrappersMP.DIFFUSION_MODEL
    patched.add_wrapper_with_key(kind, "look", look)
    before = pack.sample(model)
    assert not torch.equal(pack.sample(patched), before)
    assert {identify(model), identify(patched), *seen} == {wanted} and seen


def test_a_profile_of_the_plain_model_serves_it_with_a_lora(pack, folder):
    (recorded,) = pack.execute("MotionCacheCalibrate", pack.wan())
    pack.sample(recorded)
    (file,) = folder.iterdir()
    patched, handle = pack.patch(with_lora(pack.wan()))
    pack.sample(patched)
    assert file.name in handle.latest.distance


@pytest.mark.parametrize("sampler", ["uni_pc", "dpmpp_sde"])
def test_the_hosts_samplers_are_recorded(pack, folder, sampler):
    (recorded,) = pack.execute("MotionCacheCalibrate", pack.wan())
    assert torch.equal(
        pack.sample(recorded, sampler=sampler), pack.sample(pack.wan(), sampler=sampler)
    )
    (file,) = folder.iterdir()
    sigmas = json.loads(file.read_text("utf-8"))["sigmas"]
    assert len(sigmas) >= STEPS and sigmas == sorted(sigmas, reverse=True)


def test_a_recorded_profile_wins_over_the_demo_models_own(pack, folder):
    # neither a budget nor the published preset goes by a profile
    by_threshold = MotionCacheSettings()

    def sampled(node, *more):
        model, positive, negative, latent, _ = pack.execute(
            "MotionCacheDemoModel", "disc to the right", 5, 1
        )
        patched, *rest = pack.execute(node, model, *more)
        pack.host.run(patched, positive, negative, latent=latent["samples"], steps=12, cfg=2.0)
        return rest

    (handle,) = sampled("MotionCachePatcher", "balanced", by_threshold)
    assert handle.latest.distance == "calibrated profile (MotionCache demo)"
    shipped = [e.chunks[0].distance for e in handle.latest.evaluations][1:-1]
    sampled("MotionCacheCalibrate")
    (file,) = folder.iterdir()
    (handle,) = sampled("MotionCachePatcher", "balanced", by_threshold)
    assert file.name in handle.latest.distance
    # another recording of the same model: about the same distances
    own = [e.chunks[0].distance for e in handle.latest.evaluations][1:-1]
    assert own == pytest.approx(shipped, rel=0.35)


@pytest.mark.parametrize("name", ["predict2", "cogvideox", "mochi", "autoregressive"])
def test_models_that_are_entered_around_the_network_are_recorded(pack, folder, name):
    """Their blocks are hidden, or reached by calls that no wrapper of the network sees."""
    kind = Graph(pack) if name == "autoregressive" else KINDS[name](pack)
    wanted = kind.sample(kind.model)
    (recorded,) = pack.execute("MotionCacheCalibrate", kind.model)
    assert same(kind.sample(recorded), wanted)
    assert "blocks" not in vars(kind.model.model.diffusion_model)
    (file,) = folder.iterdir()
    told = json.loads(file.read_text("utf-8"))
    assert len(told["sigmas"]) >= 6 and told["sigmas"] == sorted(told["sigmas"], reverse=True)
    assert min(told["output_change"]) > 0
    patched, handle = pack.patch(kind.model, reuse_threshold=0.02)
    kind.sample(patched)
    assert file.name in handle.latest.distance
