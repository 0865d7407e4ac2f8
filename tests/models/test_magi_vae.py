"""MAGI-1's autoencoder against a recorded run of the published one on the same weights.

The record was made on a CPU in fp32: two tiles each way, a last tile of a few frames, one of a
single frame, one of a single latent.
"""

from pathlib import Path

import pytest
import torch
from motioncache_pack.motioncache_core import CacheShapeError, UnsupportedModelError
from motioncache_pack.motioncache_core.models.magi1.vae import build_vae, vae_config
from motioncache_pack.motioncache_core.models.magi1.vae_tiles import (
    decode,
    encode,
    latent_frames,
    tile_count,
)
from motioncache_pack.tests.support import magi_vae
from safetensors.torch import load_file

RECORD = Path(__file__).with_name("recorded") / "magi_vae.safetensors"
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def vae():
    return build_vae(magi_vae.weights())


@pytest.fixture(scope="module")
def recorded():
    return load_file(RECORD)


def as_it_is(tile):
    return tile


def error(found, expected):
    assert found.shape == expected.shape
    assert expected.std() > 0.5
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("name", "frames", "side"),
    [("encoded", 17, 264), ("encoded_picture", 1, 264), ("encoded_thirteen", 13, 64)],
)
def test_encoding_is_the_published_one(vae, recorded, name, frames, side):
    video, _ = magi_vae.recorded_inputs()
    part = video[:, :, :frames, :side, :side]
    assert error(encode(vae, part, as_it_is), recorded[name]) <= TOLERANCE


def test_decoding_is_the_published_one(vae, recorded):
    _, latents = magi_vae.recorded_inputs()
    video = decode(vae, latents, as_it_is)
    # the fourth latent is alone in its tile
    assert video.shape == (1, 3, 13, 208, 264)
    assert error(magi_vae.thinned(video), recorded["decoded"]) <= TOLERANCE


def test_a_batch_is_its_videos_and_every_tile_is_told(vae):
    latents, ticks = torch.randn(2, 16, 4, 3, 26), []
    both = decode(vae, latents, as_it_is, lambda: ticks.append(1))
    assert len(ticks) == tile_count(4, 3, 26) == 4
    for video, one in zip(both, latents, strict=True):
        assert error(video[None], decode(vae, one[None], as_it_is)) <= TOLERANCE


def test_every_pixel_is_written(vae, monkeypatch):
    """Both directions, with outputs of NaN beforehand, at sizes on both sides of a tile's edge."""
    plain = torch.Tensor.new_empty
    poisoned = lambda t, *a, **k: plain(t, *a, **k).fill_(float("nan"))  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    for frames, side in ((1, 24), (3, 25), (7, 49)):
        latents = torch.randn(1, 16, frames, 1, side)
        video = decode(vae, latents, as_it_is)
        assert video.isfinite().all()
        again = encode(vae, video, as_it_is)
        assert again.shape == latents.shape and again.isfinite().all()


def test_frames_to_latents():
    found = {frames: latent_frames(frames) for frames in (1, 4, 7, 12, 13, 14, 16, 24, 25, 96)}
    assert found == {1: 1, 4: 1, 7: 1, 12: 3, 13: 4, 14: 3, 16: 4, 24: 6, 25: 7, 96: 24}


@pytest.mark.parametrize("frames", [0, 2, 3])
def test_too_few_frames(vae, frames):
    with pytest.raises(CacheShapeError, match=f"there are {frames} frames; .* at least 4"):
        encode(vae, torch.zeros(1, 3, frames, 16, 16), as_it_is)


@pytest.mark.parametrize(
    ("call", "shape", "message"),
    [
        (encode, (1, 3, 4, 20, 16), "sizes that 8 divides"),
        (encode, (1, 4, 4, 16, 16), r"encodes \(batch, 3"),
        (decode, (1, 4, 16, 16), "Take a latent of MAGI-1"),
        (decode, (1, 48, 3, 4, 4), "Take a latent of MAGI-1"),
    ],
)
def test_what_does_not_fit(vae, call, shape, message):
    with pytest.raises(CacheShapeError, match=message):
        call(vae, torch.zeros(shape), as_it_is)


def test_sizes_come_from_the_file():
    config = vae_config(magi_vae.weights(blocks=2))
    assert (config.width, config.blocks, config.heads, config.grid) == (256, 2, 4, (4, 8, 8))


def without(*names):
    return {k: v for k, v in magi_vae.weights().items() if not k.startswith(names)}


@pytest.mark.parametrize(
    ("sd", "message"),
    [
        ({"decoder.conv_in.weight": torch.zeros(1)}, "found decoder.conv_in.weight.*Load VAE"),
        ({}, "found no tensors"),
        (without("decoder."), "expected decoder.proj_in.weight"),
        (without("decoder.blocks.0.mlp"), "4 tensors.*decoder.blocks.0.mlp.fc1.weight: missing"),
        (
            magi_vae.weights() | {"decoder.norm.weight": torch.zeros(7)},
            r"1 tensors.*decoder.norm.weight: \(7,\), expected \(256,\)",
        ),
        (magi_vae.weights() | {"encoder.pos_embed": torch.zeros(1, 9, 256)}, "8 positions"),
    ],
)
def test_other_files_are_refused(sd, message):
    with pytest.raises(UnsupportedModelError, match=message):
        build_vae(sd)
