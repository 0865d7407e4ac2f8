"""Latents for MAGI-1: whole chunks, given frames at their head, and what does not fit."""

import importlib

import pytest
import torch
from motioncache_pack.motioncache_core import CacheShapeError, SettingsError


@pytest.fixture
def node(pack):
    return importlib.import_module("motioncache_pack.nodes.magi_latent").MotionCacheMagiLatent


def latent(frames, height=4, width=6, batch=1, channels=16):
    return {"samples": torch.randn(batch, channels, frames, height, width)}


@pytest.mark.parametrize(
    ("frames", "given", "total"),
    # the published run of 96 frames from a picture is five chunks
    [(96, 0, 24), (4, 0, 6), (28, 0, 12), (96, 1, 30), (96, 8, 36), (24, 6, 12), (16, 13, 18)],
)
def test_whole_chunks_with_the_given_frames_first(node, frames, given, total):
    start = latent(given) if given else None
    (made,) = node.execute(48, 32, frames, start).result
    assert made["samples"].shape == (1, 16, total, 4, 6)
    assert not made["samples"][:, :, given:].any()
    if not given:
        assert "noise_mask" not in made
        return
    assert torch.equal(made["samples"][:, :, :given], start["samples"])
    mask = made["noise_mask"]
    assert mask.shape == (1, 1, total, 4, 6)
    assert not mask[:, :, :given].any() and mask[:, :, given:].eq(1).all()


@pytest.mark.parametrize(
    ("width", "height", "frames", "start", "error", "message"),
    [
        (712, 720, 96, None, SettingsError, "width is 712; .* multiples of 16 .*: use 704"),
        (720, 16, 96, None, SettingsError, "height is 16; .*: use 32"),
        (720, 720, 97, None, SettingsError, "frames is 97; .*: use 96 or 100"),
        (720, 720, 0, None, SettingsError, "frames is 0; .*: use 4$"),
        (48, 32, 96, latent(1, channels=48), CacheShapeError, "Load Magi VAE"),
        (48, 32, 96, {"samples": torch.zeros(1, 16, 4, 6)}, CacheShapeError, "Load Magi VAE"),
        (48, 32, 96, latent(1, batch=2), CacheShapeError, "start holds 2 videos; .* one at a time"),
        (64, 32, 96, latent(1), CacheShapeError, "start is 48 x 32 .* width and height say 64 x"),
    ],
)
def test_what_does_not_fit(node, width, height, frames, start, error, message):
    with pytest.raises(error, match=message):
        node.execute(width, height, frames, start)
