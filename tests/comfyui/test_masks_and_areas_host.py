"""Noise levels and sizes of calls as only the real ComfyUI makes them: Wan 2.2 5B with a mask over
the picture, whose timesteps are not its sampler's, and prompts for areas."""

import functools
import importlib
import json

import pytest
import torch
from motioncache_pack.motioncache_core.report.run_summary import RunSummary
from motioncache_pack.tests.comfyui.test_answer_graphs_host import area, two_areas
from motioncache_pack.tests.support.answer_runs import (
    Scene,
    small,
    watch,
)
from motioncache_pack.tests.support.node_runs import marks

pytestmark = pytest.mark.comfy


@functools.cache
def five_b(pack):
    latent = torch.randn(1, 48, 3, 6, 6, generator=torch.Generator().manual_seed(5))
    return Scene(pack, pack.five_b(), pack.host.text(1), pack.host.text(2), latent)


MASKS = {
    "half of the picture": lambda mask: mask[..., :3].zero_(),
    "a small part of it": lambda mask: mask[..., 1:, :].zero_(),
    "the first frame": lambda mask: mask[:, :, :1].zero_(),
    "half of the first frame": lambda mask: mask[:, :, :1, :, :3].zero_(),
}


def masked(scene, model, name):
    mask = torch.ones(1, 1, 3, 6, 6)
    MASKS[name](mask)
    return scene.sample(model, noise_mask=mask)


@pytest.mark.parametrize("preset", ["balanced", "motion", "paper"])
@pytest.mark.parametrize("name", MASKS)
def test_a_mask_moves_no_evaluation(pack, preset, name):
    scene = five_b(pack)
    plain = watch(pack, scene.model, scene.sample, preset)
    told = watch(pack, scene.model, lambda m: masked(scene, m, name), preset)
    assert not told.trace.reason and marks(told.trace).count("D") < len(marks(told.trace))
    sigmas = [e.sigma for e in told.trace.evaluations]
    assert sigmas == pytest.approx([e.sigma for e in plain.trace.evaluations], rel=1e-6)
    if preset == "motion":
        # a budget is placed by noise levels alone
        assert marks(told.trace) == marks(plain.trace)
    assert 0 < told.error < 20 * plain.error


@pytest.mark.parametrize("preset", ["balanced", "motion", "paper"])
@pytest.mark.parametrize("graph", [area, two_areas])
def test_every_area_has_a_state_of_its_own(pack, preset, graph):
    scene = small(pack)
    plain = watch(pack, scene.model, scene.sample, preset)
    told = watch(pack, scene.model, lambda m: graph(scene, m), preset)
    assert RunSummary(told.trace).why is None and not told.trace.resets
    share = RunSummary(told.trace).compute_share
    assert share < RunSummary(plain.trace).compute_share + 0.1
    assert 0 < told.error < 4 * plain.error


def test_a_recording_is_of_the_sampler_s_levels(pack, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.import_module("folder_paths"), "models_dir", str(tmp_path))
    scene = five_b(pack)
    (recorded,) = pack.execute("MotionCacheCalibrate", scene.model)
    masked(scene, recorded, "half of the picture")
    (file,) = (tmp_path / "motioncache").iterdir()
    wanted = scene.sigmas()[:-1].tolist()
    assert json.loads(file.read_text("utf-8"))["sigmas"] == pytest.approx(wanted, abs=1e-4)
