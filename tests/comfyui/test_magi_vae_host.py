"""MAGI-1's VAE in the real ComfyUI, through the host's own VAE nodes."""

import importlib

import pytest
import torch
from motioncache_pack.motioncache_core import CacheShapeError, UnsupportedModelError
from motioncache_pack.motioncache_core.models.magi1.vae import build_vae
from motioncache_pack.motioncache_core.models.magi1.vae_tiles import decode, encode
from motioncache_pack.tests.support import magi_vae

pytestmark = [pytest.mark.comfy, pytest.mark.usefixtures("supported")]

FILE, FOLDER = "magi.safetensors", "vae"


@pytest.fixture
def node(write):
    write(FILE, magi_vae.weights())
    return importlib.import_module("motioncache_pack.nodes.load_magi_vae").MotionCacheLoadMagiVAE


@pytest.fixture
def vae(node):
    return node.execute(FILE).result[0]


@pytest.fixture
def nodes(host):
    return importlib.import_module("nodes")


@pytest.fixture(scope="module")
def core():
    return build_vae(magi_vae.weights())


def as_it_is(tile):
    return tile


@pytest.fixture
def latent():
    return torch.randn(1, 16, 7, 6, 26)


@torch.no_grad()
def test_decode_and_tiled_decode_are_the_core(nodes, vae, core, latent):
    expected = decode(core, latent, as_it_is).movedim(1, -1)[0] / 2 + 0.5
    assert not expected.ge(0).all()
    (video,) = nodes.VAEDecode().decode(vae, {"samples": latent})
    # a last latent alone in its tile gives one frame
    assert video.shape == (25, 48, 208, 3)
    torch.testing.assert_close(video, expected.clamp(0, 1), atol=1e-6, rtol=0)
    for sizes in ((512, 64), (128, 32)):
        (tiled,) = nodes.VAEDecodeTiled().decode(vae, {"samples": latent}, *sizes)
        assert torch.equal(tiled, video)


@torch.no_grad()
def test_encode_and_tiled_encode_are_the_core(nodes, vae, core):
    pixels = torch.rand(26, 51, 202, 4)
    cut = pixels[None, :, 1:49, 1:201, :3].movedim(-1, 1)
    expected = encode(core, cut * 2 - 1, as_it_is)
    (made,) = nodes.VAEEncode().encode(vae, pixels)
    assert made["samples"].shape == (1, 16, 6, 6, 25)
    torch.testing.assert_close(made["samples"], expected, atol=1e-6, rtol=0)
    (tiled,) = nodes.VAEEncodeTiled().encode(vae, pixels, 256, 64)
    assert torch.equal(tiled["samples"], made["samples"])


@torch.no_grad()
def test_a_batch_of_videos(vae, latent):
    both = torch.cat((latent, latent.flip(-1)))
    video = vae.decode(both)
    assert video.shape == (2, 25, 48, 208, 3)
    assert torch.equal(video[1:], vae.decode(both[1:]))
    again = vae.encode(video)
    assert torch.equal(again[:1], vae.encode(video[0]))


@torch.no_grad()
def test_in_half_precision_it_is_nearly_the_same(host, core, latent):
    module = importlib.import_module("motioncache_pack.nodes.host.magi_vae")
    half = module.MagiVaeSocket(build_vae(magi_vae.weights()), torch.bfloat16)
    assert {p.dtype for p in half.first_stage_model.parameters()} == {torch.bfloat16}
    found = half.decode(latent)
    expected = decode(core, latent, as_it_is).movedim(1, -1) / 2 + 0.5
    assert found.dtype == torch.float32
    difference = (found - expected.clamp(0, 1)).norm() / expected.norm()
    assert 0 < difference < 2e-2


def test_the_bar_counts_tiles_and_an_interrupt_ends_the_work(host, vae, latent):
    told = []
    host.utils.set_progress_bar_global_hook(
        lambda value, total, *a, **k: told.append((value, total))
    )
    try:
        vae.decode(latent)
        assert told[-1] == (6, 6)
        told.clear()
        host.model_management.interrupt_current_processing()
        with pytest.raises(host.model_management.InterruptProcessingException):
            vae.decode(latent)
        assert not told
    finally:
        host.utils.set_progress_bar_global_hook(None)


def test_sizes_that_other_nodes_ask_for(vae):
    assert vae.spacial_compression_decode() == vae.spacial_compression_encode() == 8
    assert vae.temporal_compression_decode() == 4
    assert (vae.latent_channels, vae.latent_dim) == (16, 3)
    assert vae.downscale_ratio[0](25) == 7 and vae.upscale_ratio[0](6) == 24
    assert vae.model_size() == sum(4 * w.numel() for w in magi_vae.weights().values())
    assert vae.get_sd().keys() == magi_vae.weights().keys()
    vae.throw_exception_if_invalid()


def test_weights_are_loaded_by_the_hosts_memory_management(host, vae, latent):
    vae.decode(latent)
    assert vae.patcher in [loaded.model for loaded in host.model_management.current_loaded_models]
    # a tile's memory does not grow with the video
    assert vae.memory_used_decode((1, 16, 99, 90, 160), vae.vae_dtype) == vae.memory_used()
    assert vae.memory_used() > 3073 * 256 * 20 * 4


@pytest.mark.parametrize(
    ("call", "shape", "message"),
    [
        ("encode", (3, 16, 16, 3), "there are 3 frames"),
        ("encode", (4, 16, 16, 1), "encodes .frames, height"),
        ("decode", (1, 4, 16, 16), "Take a latent of MAGI-1"),
        ("decode", (1, 48, 3, 4, 4), "Take a latent of MAGI-1"),
    ],
)
def test_what_does_not_fit(vae, call, shape, message):
    with pytest.raises(CacheShapeError, match=message):
        getattr(vae, call)(torch.zeros(shape))


def test_the_vae_of_another_model_is_refused(write, node):
    write("wan.safetensors", {"decoder.middle.0.residual.0.gamma": torch.zeros(1)})
    with pytest.raises(UnsupportedModelError, match="is not the VAE of MAGI-1"):
        node.execute("wan.safetensors")
    options = node.GET_NODE_INFO_V1()["input"]["required"]["vae_name"][1]["options"]
    assert options == [FILE, "wan.safetensors"]
