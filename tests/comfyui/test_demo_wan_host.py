"""The demo model and ComfyUI's own WanModel compute the same from the same state dict."""

import pytest
import torch
from motioncache_pack.motioncache_core.demo.wan import DemoWan

pytestmark = pytest.mark.comfy

TOLERANCE = 1e-4
DIM, HEADS, LAYERS, TEXT_DIM = 256, 2, 2, 4096
IMAGE_TOKENS, CLIP_DIM = 257, 1280


def random_weights(model_type):
    channels = 36 if model_type == "i2v" else 16
    model = DemoWan(dim=DIM, ffn_dim=512, num_layers=LAYERS, in_dim=channels, model_type=model_type)
    assert model.num_heads == HEADS
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.add_(torch.randn_like(parameter) * scale)
    return model.eval()


def pair(model_type):
    """Ours and the host's, with the same random weights; norms and modulation are random too."""
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    ours = random_weights(model_type)
    theirs = WanModel(
        model_type=model_type, patch_size=(1, 2, 2), dim=DIM, ffn_dim=512, num_heads=HEADS,
        num_layers=LAYERS, in_dim=ours.in_dim, out_dim=16, text_dim=TEXT_DIM, freq_dim=256,
        dtype=torch.float32, operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs.eval()


def inputs(model, frames, height, width):
    x = torch.randn(2, model.in_dim, frames, height, width)
    return x, torch.randn(2, 16, TEXT_DIM)


def assert_same(ours, theirs):
    assert ours.shape == theirs.shape
    # an output near zero would be close to anything
    assert ours.std() > 0.1
    assert (ours - theirs).abs().max() <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize(
    ("frames", "height", "width"), [(1, 8, 8), (5, 7, 9)], ids=["still", "odd"]
)
def test_text_to_video(host, frames, height, width):
    ours, theirs = pair("t2v")
    x, text = inputs(ours, frames, height, width)
    t = torch.tensor([713.0, 41.5])
    assert_same(ours(x, t, text), theirs(x, t, text))


@torch.no_grad()
def test_image_to_video(host):
    ours, theirs = pair("i2v")
    x, text = inputs(ours, 3, 7, 9)
    t, clip = torch.tensor([713.0, 41.5]), torch.randn(2, IMAGE_TOKENS, CLIP_DIM)
    expected = theirs(x, t, text, clip_fea=clip)
    assert_same(ours(x, t, text, clip_fea=clip), expected)
    other = ours(x, t, text, clip_fea=clip.flip(2))
    assert (other - expected).abs().max() > 10 * TOLERANCE


@torch.no_grad()
def test_per_frame_timesteps(host):
    ours, theirs = pair("t2v")
    x, text = inputs(ours, 3, 7, 9)
    t = torch.tensor([[0.0, 400.0, 1000.0], [900.0, 12.5, 300.0]])
    assert_same(ours(x, t, text), theirs(x, t, text))


def test_the_host_recognises_the_state_dict(host):
    import comfy.model_base
    import comfy.sd
    from comfy.ldm.wan.model import WanModel

    ours = random_weights("t2v")
    patcher = comfy.sd.load_diffusion_model_state_dict(ours.state_dict())
    assert patcher is not None
    assert type(patcher.model) is comfy.model_base.WAN21
    # WAN21 concatenates an image only when it is not text-to-video
    assert not patcher.model.image_to_video
    assert type(patcher.model.diffusion_model) is WanModel
    loaded = patcher.model.diffusion_model.state_dict()
    assert loaded.keys() == ours.state_dict().keys()
    for name, value in ours.state_dict().items():
        assert torch.equal(loaded[name].to(value.dtype), value.to(loaded[name].dtype)), name
