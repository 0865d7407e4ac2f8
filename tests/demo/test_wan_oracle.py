"""The demo model computes what Wan 2.1 computes: diffusers' transformer is the reference."""

import re

import pytest
import torch
from motioncache_pack.motioncache_core.demo.wan import DemoWan

diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is not installed: pip install -r tests/requirements.txt"
)

TOLERANCE = 1e-4
DIM, HEADS, LAYERS, TEXT_DIM = 256, 2, 2, 64
# diffusers splits image tokens from text tokens at a fixed text length
TEXT_TOKENS, IMAGE_TOKENS, CLIP_DIM = 512, 257, 1280

# Wan's names (also ComfyUI's and ours) to diffusers'; no tensor changes
RENAMES = (
    (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
    (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
    (r"^time_projection\.1\.", "condition_embedder.time_proj."),
    (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
    (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
    (r"^img_emb\.proj\.0\.", "condition_embedder.image_embedder.norm1."),
    (r"^img_emb\.proj\.1\.", "condition_embedder.image_embedder.ff.net.0.proj."),
    (r"^img_emb\.proj\.3\.", "condition_embedder.image_embedder.ff.net.2."),
    (r"^img_emb\.proj\.4\.", "condition_embedder.image_embedder.norm2."),
    (r"^head\.modulation$", "scale_shift_table"),
    (r"^head\.head\.", "proj_out."),
    (r"\.modulation$", ".scale_shift_table"),
    (r"\.norm3\.", ".norm2."),
    (r"\.self_attn\.", ".attn1."),
    (r"\.cross_attn\.", ".attn2."),
    (r"\.k_img\.", ".add_k_proj."),
    (r"\.v_img\.", ".add_v_proj."),
    (r"\.norm_k_img\.", ".norm_added_k."),
    (r"\.([qkv])\.(weight|bias)$", r".to_\1.\2"),
    (r"\.o\.(weight|bias)$", r".to_out.0.\1"),
    (r"\.ffn\.0\.", ".ffn.net.0.proj."),
    (r"\.ffn\.2\.", ".ffn.net.2."),
)


def diffusers_name(name):
    for pattern, new in RENAMES:
        name = re.sub(pattern, new, name)
    return name


def pair(model_type):
    """The same random weights in both implementations; norms and modulation are random too."""
    channels = 36 if model_type == "i2v" else 16
    ours = DemoWan(
        dim=DIM, ffn_dim=512, num_layers=LAYERS, num_heads=HEADS, in_dim=channels,
        text_dim=TEXT_DIM, model_type=model_type,
    )  # fmt: skip
    image = {"image_dim": CLIP_DIM, "added_kv_proj_dim": DIM} if model_type == "i2v" else {}
    theirs = diffusers.WanTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=DIM // HEADS, in_channels=channels,
        out_channels=16, text_dim=TEXT_DIM, ffn_dim=512, num_layers=LAYERS, cross_attn_norm=True,
        **image,
    )  # fmt: skip
    for parameter in ours.parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
        parameter.add_(torch.randn_like(parameter) * scale)
    theirs.load_state_dict({diffusers_name(k): v for k, v in ours.state_dict().items()})
    return ours.eval(), theirs.eval()


def inputs(model_type, frames, height=8, width=6):
    channels = 36 if model_type == "i2v" else 16
    return torch.randn(2, channels, frames, height, width), torch.randn(2, TEXT_TOKENS, TEXT_DIM)


def assert_same(ours, theirs):
    assert ours.shape == theirs.shape
    # an output near zero would be close to anything
    assert ours.std() > 0.1
    assert (ours - theirs).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("frames", "height", "width"), [(1, 8, 8), (4, 8, 6), (5, 10, 6)], ids=["still", "even", "odd"]
)
def test_text_to_video(frames, height, width):
    ours, theirs = pair("t2v")
    x, text = inputs("t2v", frames, height, width)
    t = torch.tensor([713.0, 41.5])
    assert_same(ours(x, t, text), theirs(x, t, text, return_dict=False)[0])


def test_image_to_video():
    ours, theirs = pair("i2v")
    x, text = inputs("i2v", frames=3)
    t, clip = torch.tensor([713.0, 41.5]), torch.randn(2, IMAGE_TOKENS, CLIP_DIM)
    expected = theirs(x, t, text, encoder_hidden_states_image=clip, return_dict=False)[0]
    assert_same(ours(x, t, text, clip_fea=clip), expected)
    other = ours(x, t, text, clip_fea=clip.flip(2))
    assert (other - expected).abs().max() > 10 * TOLERANCE


@pytest.mark.parametrize("model_type", ["t2v", "i2v"])
def test_per_frame_timesteps(model_type):
    ours, theirs = pair(model_type)
    x, text = inputs(model_type, frames=3)
    t = torch.tensor([[0.0, 400.0, 1000.0], [900.0, 12.5, 300.0]])
    clip = torch.randn(2, IMAGE_TOKENS, CLIP_DIM) if model_type == "i2v" else None
    per_token = t.repeat_interleave(x.shape[3] * x.shape[4] // 4, dim=1)
    expected = theirs(x, per_token, text, encoder_hidden_states_image=clip, return_dict=False)[0]
    assert_same(ours(x, t, text, clip_fea=clip), expected)
