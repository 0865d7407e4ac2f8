"""MAGI-1's checkpoints in the real ComfyUI: files, shards, formats, patches, partial loading."""

import importlib
import re

import pytest
import torch
from motioncache_pack.motioncache_core import SettingsError, UnsupportedModelError
from motioncache_pack.motioncache_core.models.magi1.config import MagiConfig
from motioncache_pack.motioncache_core.models.magi1.network import (
    MagiNetwork,
    attend_alone,
    plain_attention,
)
from motioncache_pack.tests.support import magi

pytestmark = [pytest.mark.comfy, pytest.mark.usefixtures("supported")]

TOLERANCE = 2e-6
CLEARLY_OFF = 1e-2
NAME = "MAGI-4.5B_distill.safetensors"
LAYER = "videodit_blocks.layers.1."
QUERY = LAYER + "self_attention.linear_qkv.q"


def checkpoint(case="distill"):
    return dict(magi.recorded(case).weights)


@pytest.fixture
def load(write):
    """`load(name, kind, weight_dtype, precision)`: the node's model and text."""
    node = importlib.import_module("motioncache_pack.nodes.load_magi").MotionCacheLoadMagi

    def run(name=NAME, kind="auto", weight_dtype="default", precision="published"):
        return node.execute(name, kind, weight_dtype, precision).result

    return run


def chunk(network, seed=3):
    """One chunk through a network, on its own."""
    config, random = network.config, torch.Generator().manual_seed(seed)
    x = torch.randn(1, config.channels, 6, 4, 6, generator=random)
    rows = torch.randn(1, 9, config.text_width, generator=random)
    condition = network.condition(0.4, True, 4.0, x.device)
    with torch.no_grad():
        return network.chunk(
            x, condition, network.text(rows), 6, attend_alone, plain_attention(config)
        )


def own(sd, published=True):
    """The same weights on plain layers."""
    network = MagiNetwork(MagiConfig.from_tensors(sd), published=published)
    network.load_state_dict(sd)
    return network


def ready(host, model):
    """The network as it is while the host samples."""
    host.model_management.load_models_gpu([model])
    return model.model.diffusion_model


def error(found, expected):
    assert found.shape == expected.shape
    assert expected.std() > 0.1
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("case", "prefix", "told"),
    [
        ("distill", "", "distilled model, 2 blocks, width 256\\. .* 720 x 720"),
        ("base_24b", "model.diffusion_model.", "base model, .* 1280 x 720"),
    ],
)
def test_the_model_is_the_network(host, write, load, case, prefix, told):
    sd = checkpoint(case)
    name = f"{case}.safetensors"
    write(name, {prefix + k: v for k, v in sd.items()})
    model, text = load(name)
    assert error(chunk(ready(host, model)), chunk(own(sd))) <= TOLERANCE
    assert re.match(f"MAGI-1, {told} pixels", text)


def test_shards_are_read_together(host, write, load, tmp_path):
    sd = checkpoint()
    names = sorted(sd)
    for i in range(3):
        part = {name: sd[name] for name in names[i::3]}
        write(f"model-0000{i + 1}-of-00003.safetensors", part)
    for i in (1, 3):
        model, _ = load(f"model-0000{i}-of-00003.safetensors", "distill")
        assert error(chunk(ready(host, model)), chunk(own(sd))) <= TOLERANCE
    second = tmp_path / "model-00002-of-00003.safetensors"
    packed = second.rename(f"{second}.zst")
    with pytest.raises(UnsupportedModelError, match=r"00002-of-00003\.safetensors\.zst is packed"):
        load("model-00001-of-00003.safetensors", "distill")
    packed.unlink()
    with pytest.raises(UnsupportedModelError, match="is missing: model-00002-of-00003"):
        load("model-00001-of-00003.safetensors", "distill")


PER_TENSOR = (*(f"self_attention.linear_qkv.{n}" for n in ("q", "qx", "k", "v")), "mlp.linear_fc1")
PER_CHANNEL = ("self_attention.linear_proj", "mlp.linear_fc2")


def quantised(sd):
    """The published 8-bit layout of the second block, and the weights that it stands for."""
    made, meant = dict(sd), dict(sd)
    for layer in (*PER_TENSOR, *PER_CHANNEL):
        name, weight = LAYER + layer, sd[f"{LAYER}{layer}.weight"]
        inputs, scale = weight.shape[1], weight.abs().max() / 200
        smooth = torch.rand(1, inputs) + 0.5 if layer in PER_CHANNEL else torch.ones(1, inputs)
        stored = (weight * smooth / scale).to(torch.float8_e4m3fn)
        made[f"{name}.weight"] = stored[None]
        if layer in PER_CHANNEL:
            made[f"{name}.weight_scale"] = scale.reshape(1) * 4
            made[f"{name}.input_scale"] = torch.tensor([0.25])
            made[f"{name}.smooth_scale"] = smooth
        else:
            made[f"{name}.weight_scale"] = scale.reshape(1)
            made[f"{name}.input_scale"] = torch.full((inputs,), 0.3)
        meant[f"{name}.weight"] = (stored.float() * scale / smooth).bfloat16().float()
    return made, meant


def test_the_published_8_bit_layout(host, write, load):
    sd = checkpoint()
    made, meant = quantised(sd)
    write(NAME, made)
    model, text = load()
    found = chunk(ready(host, model))
    assert error(found, chunk(own(meant))) <= TOLERANCE
    assert error(found, chunk(own(sd))) > CLEARLY_OFF
    assert "8-bit weights unpacked" in text
    made[f"{QUERY}.input_scale"][3] = 0.31
    write(NAME, made)
    with pytest.raises(UnsupportedModelError, match=f"input_scale of {QUERY} differs"):
        load()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_kept_in_fp8(host, write, load, dtype):
    sd = checkpoint()
    write(NAME, sd)
    model, _ = load(weight_dtype=f"fp8_{str(dtype).removeprefix('torch.float8_')}")
    network = ready(host, model)
    assert network.get_submodule(QUERY).weight.dtype == dtype
    # what is small and steers much stays as it is
    exact = ("x_embedder", "y_embedder.y_proj_xattn.0", "final_linear.linear")
    assert {network.get_submodule(name).weight.dtype for name in exact} == {torch.float32}
    assert network.rope.bands.dtype == torch.float32
    kept = dict(network.named_parameters())
    stored = {
        name: value.to(dtype).float() if kept[name].dtype == dtype else value
        for name, value in sd.items()
    }
    found = chunk(network)
    assert error(found, chunk(own(stored))) <= TOLERANCE
    assert error(found, chunk(own(sd))) > CLEARLY_OFF


def test_precision_reaches_the_layers(write, load):
    write(NAME, checkpoint())
    for precision, published in (("fast", False), ("published", True)):
        model, _ = load(precision=precision)
        layers = model.model.diffusion_model.videodit_blocks.layers
        assert {layer.self_attention.published for layer in layers} == {published}


def test_a_lora_by_its_names_is_the_baked_weight_and_goes_again(host, write, load):
    sd = checkpoint()
    write(NAME, sd)
    model, _ = load()
    plain = chunk(ready(host, model))
    up, down = torch.randn(256, 4) * 0.2, torch.randn(4, 256) * 0.2
    baked = sd | {f"{QUERY}.weight": sd[f"{QUERY}.weight"] + 0.5 * up @ down}
    expected = chunk(own(baked))
    assert error(plain, expected) > CLEARLY_OFF
    for names in (("lora_B", "lora_A"), ("lora_up", "lora_down")):
        lora = {
            f"diffusion_model.{QUERY}.{name}.weight": w
            for name, w in zip(names, (up, down), strict=True)
        }
        patched, _ = host.sd.load_lora_for_models(model, None, lora, 0.5, 0.0)
        assert error(chunk(ready(host, patched)), expected) <= TOLERANCE
    host.model_management.unload_all_models()
    assert torch.equal(chunk(ready(host, model)), plain)


def test_a_reload_is_the_same_model(host, write, load):
    """What the host does to compile, for hooks and for several GPUs."""
    write(NAME, checkpoint())
    model, _ = load(weight_dtype="fp8_e4m3fn")
    build, arguments = model.clone().cached_patcher_init
    expected = chunk(ready(host, model))
    for again in (build(*arguments), build(*arguments, disable_dynamic=True)):
        assert again.model is not model.model
        assert torch.equal(chunk(ready(host, again)), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sd: {"blocks.0.self_attn.q.weight": torch.zeros(1)}, "no MAGI-1 model"),
        (lambda sd: {k: v for k, v in sd.items() if "t_embedder" not in k}, "4 tensors .*t_embed"),
        (lambda sd: sd | {"final_linear.linear.weight": torch.zeros(2, 256)}, r"\(2, 256\), expec"),
        (
            lambda sd: {k: v for k, v in sd.items() if "layers.0.mlp" not in k},
            "layers.0.mlp.linear_fc1.weight is missing",
        ),
    ],
    ids=["another model", "missing", "shape", "half"],
)
def test_other_files_are_refused(write, load, change, message):
    write(NAME, change(checkpoint()))
    with pytest.raises(UnsupportedModelError, match=message):
        load()


def test_choices(write, load):
    write("magi.safetensors", checkpoint())
    for options, message in (
        ({}, "Set kind to base or distill"),
        ({"kind": "base", "weight_dtype": "int8"}, "weight_dtype is 'int8'; allowed are default"),
        ({"kind": "base", "precision": "best"}, "precision is 'best'; allowed are fast, publ"),
    ):
        with pytest.raises(SettingsError, match=message):
            load("magi.safetensors", **options)
