"""Whole evaluations foretold on models of other kinds, with random weights, in the real ComfyUI: an
image model that predicts noise, packed video and sound, a network without wrappers of its own."""

import json
from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.tests.support.answer_runs import Scene, patch, squared, unchanged, watch
from motioncache_pack.tests.support.host_wan import random_weights

pytestmark = pytest.mark.comfy

LTX = {
    "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 32, "cross_attention_dim": 64,
    "caption_channels": 64, "audio_num_attention_heads": 2, "audio_attention_head_dim": 16,
    "audio_cross_attention_dim": 32, "connector_num_attention_heads": 2,
    "connector_attention_head_dim": 32, "audio_connector_num_attention_heads": 2,
    "audio_connector_attention_head_dim": 32, "connector_num_layers": 1,
}  # fmt: skip
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32,
    "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1, "context_dim": 768,
    "num_heads": 4, "num_head_channels": -1, "use_spatial_transformer": True, "legacy": False,
    "use_linear_in_transformer": False, "adm_in_channels": None, "use_temporal_attention": False,
}  # fmt: skip
MOCHI = {
    "image_model": "mochi_preview", "depth": 2, "patch_size": 2, "num_heads": 2,
    "hidden_size_x": 96, "hidden_size_y": 64, "mlp_ratio_x": 128.0, "mlp_ratio_y": 4.0,
    "learn_sigma": False, "in_channels": 12, "qk_norm": True, "qkv_bias": False, "out_bias": True,
    "attn_drop": 0.0, "patch_embed_bias": True, "posenc_preserve_area": True,
    "timestep_mlp_bias": True, "attend_to_padding": False, "timestep_scale": 1000.0,
    "use_t5": True, "t5_feat_dim": 64, "t5_token_length": 256, "rope_theta": 10000.0,
}  # fmt: skip


def weights(network, tame=()):
    return random_weights(network, tame, "scale_shift_table")


def by_config(pack, name, config, tame):
    """A model that the host does not find out by its weights."""
    host = pack.host
    made = getattr(host.supported_models, name)(config)
    made.set_inference_dtype(torch.float32, None)
    model = made.get_model({}, "", device=torch.device("cpu"))
    network = model.diffusion_model
    network.load_state_dict(weights(network, tame))
    return host.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def texts(pack, dim, **given):
    return [[[pack.host.text(seed, dim=dim)[0][0], dict(given)]] for seed in (1, 2)]


def image(pack):
    model = by_config(pack, "SD15", dict(UNET), ("time_embed.2.weight",))
    return Scene(pack, model, *texts(pack, 768), torch.zeros(1, 4, 8, 8))


def mochi(pack):
    model = by_config(pack, "GenmoMochi", dict(MOCHI), ())
    mask = torch.ones(1, 16, dtype=torch.long)
    return Scene(
        pack, model, *texts(pack, 64, attention_mask=mask), torch.zeros(1, 12, 2, 4, 4)
    )  # fmt: skip


def sound(pack):
    from comfy.ldm.lightricks.av_model import LTXAVModel
    from comfy.nested_tensor import NestedTensor

    host = pack.host
    network = LTXAVModel(
        device="cpu", dtype=torch.float32, operations=host.ops.manual_cast, **LTX
    )  # fmt: skip
    metadata = {"config": json.dumps({"transformer": LTX})}
    model = host.sd.load_diffusion_model_state_dict(
        weights(network, ("adaln_single.emb",)), metadata=metadata
    )
    assert type(model.model).__name__ == "LTXAV"
    latent = NestedTensor((torch.zeros(1, 128, 3, 4, 4), torch.zeros(1, 8, 7, 16)))
    return Scene(pack, model, *texts(pack, 128), latent)


# where calls of the network are counted, and how close they come: relative and squared
KINDS = {
    (image, "balanced"): ("diffusion_model", 5e-4),
    # its tokens are not known
    (image, "motion"): ("diffusion_model", 5e-4),
    (sound, "balanced"): ("diffusion_model", 5e-5),
    # nothing makes these weights smooth in time
    (mochi, "balanced"): ("apply_model", 0.05),
}


@pytest.fixture(params=(image, sound, mochi), ids=lambda kind: kind.__name__)
def scene(request, pack):
    return request.param(pack)


@pytest.mark.parametrize(("kind", "preset"), KINDS)
def test_the_share_is_computed_and_the_rest_comes_close(pack, nothing_left, kind, preset):
    where, close = KINDS[kind, preset]
    scene = kind(pack)
    told = watch(pack, scene.model, scene.sample, preset, where=where)
    told.check()
    assert [code_of(r) for r in told.trace.remarks] == ["tokens_unknown"] * (preset == "motion")
    assert 0 < told.error < close


def test_perturbed_attention_of_an_image_model(pack, nothing_left):
    """A second pass of the prompt, with a patch in the place of an attention."""
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    scene = image(pack)
    (guided,) = PerturbedAttentionGuidance.execute(scene.model, 1.0).result
    told = watch(pack, guided, scene.sample)
    told.check()
    assert squared(told.wanted, scene.sample(scene.model)) > 1e-6
    assert 0 < told.error < 0.001


def test_without_reuse_nothing_changes(pack, scene):
    scene = replace(scene, steps=9)
    unchanged(pack, scene.model, scene.sample)


def test_report_and_map(pack, scene):
    patched, handle = patch(pack, scene.model)
    scene.sample(patched)
    words, picture, data = pack.execute("MotionCacheReport", handle, {})
    assert "6 of the sampler's 16 evaluations are computed" in words
    assert picture.shape[-1] == 3 and json.loads(data)
    for view in ("motion", "updates"):
        (maps,) = pack.execute("MotionCacheMotionMap", handle, {}, view, -1, "magma", 0.5)
        assert len(maps) == handle.latest.grid[0]
