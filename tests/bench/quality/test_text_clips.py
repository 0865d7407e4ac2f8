"""The clips of the models that draw from text alone, and the shortcuts of their training."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from motioncache_pack.motioncache_core.demo import checkpoint, codec

NAMES = ("text", "text_confirmation", "text_small")


@pytest.fixture
def made(bench):
    """The bench's module of clips."""
    return bench("quality.text_clips")


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_is_the_same_for_the_same_seed_and_another_for_another(made, name):
    model = made.MODELS[name]
    one, again, other = (made.clip(model, seed) for seed in (5, 5, 6))
    for field in ("positive", "negative", "noise", "rendered"):
        assert torch.equal(getattr(one, field), getattr(again, field))
    assert one.sigmas == again.sigmas and one.scene == again.scene
    assert not torch.equal(one.noise, other.noise) and one.scene != other.scene


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_has_the_networks_shapes(made, name):
    clip = made.clip(made.MODELS[name], 1, steps=7, frames=4)
    assert clip.positive.shape == clip.negative.shape == (1, 4, 4096)
    assert clip.noise.shape == (1, 16, 4, 16, 16)
    assert clip.rendered.shape == made.decode(clip.noise).shape == (4, 64, 64, 3)
    assert len(clip.sigmas) == 8 and clip.sigmas[0] == 1 and clip.sigmas[-1] == 0
    assert all(a > b for a, b in pairwise(clip.sigmas))
    assert len(clip.scene.scene.shapes) == 2 and clip.scene.scene.pan in (1, 2)


def test_the_noise_levels_are_the_hosts(made):
    from motioncache_pack.tests.support.fake_comfy.comfy import model_sampling, samplers

    flow = model_sampling.ModelSamplingDiscreteFlow()
    for shift in (3.0, 8.0):
        flow.set_parameters(shift=shift)
        for steps in (7, 20, 24, 50):
            host = samplers.simple_scheduler(flow, steps)
            torch.testing.assert_close(torch.tensor(made.simple_sigmas(steps, shift)), host)


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_picture_slides(made, name):
    model = made.MODELS[name]
    scene = made.clip(model, 2).scene
    speed = abs(scene.take.pan)
    assert model.camera.speed[0] <= speed <= model.camera.speed[1]
    # what stands still in the scene moves in the picture, against the camera
    for shape, velocity in zip(scene.scene.shapes, scene.take.velocities, strict=True):
        across = velocity[0 if model.camera.vertical else 1]
        along = velocity[1 if model.camera.vertical else 0]
        if shape.speed == 0:
            assert across == 0 and along == -scene.take.pan


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_are_those_of_the_description(made, name):
    model = made.MODELS[name]
    network = checkpoint.load(model.weights)
    assert network.in_dim == codec.CHANNELS and network.model_type == "t2v"
    assert (network.dim, len(network.blocks)) == (model.dim, model.layers)
    clip = made.clip(model, 0, frames=3)
    with torch.no_grad():
        v = network(clip.noise, torch.tensor([1000.0]), clip.positive)
    # pure noise told to be noise: its velocity is about itself
    assert torch.nn.functional.cosine_similarity(v.flatten(), clip.noise.flatten(), dim=0) > 0.6


def test_the_files_are_small(made):
    assert sum(model.weights.stat().st_size for model in made.MODELS.values()) < 8e6
