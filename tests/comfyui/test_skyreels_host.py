"""A SkyReels-V2 checkpoint in the real ComfyUI: the loader's model is diffusers' transformer."""

import importlib
import json

import pytest
import torch
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.tests.demo.test_wan_oracle import diffusers_name

pytestmark = [pytest.mark.comfy, pytest.mark.usefixtures("supported")]

TOLERANCE = 1e-4
# an error that is no rounding
CLEARLY_OFF = 1e-2
DIM, HEADS, LAYERS, FFN, TEXT_TOKENS = 256, 2, 2, 512, 512
# frame-rate names to diffusers'
FPS_NAMES = {
    "fps_embedding.weight": "fps_embedding.weight",
    "fps_projection.0.weight": "fps_projection.net.0.proj.weight",
    "fps_projection.0.bias": "fps_projection.net.0.proj.bias",
    "fps_projection.2.weight": "fps_projection.net.2.weight",
    "fps_projection.2.bias": "fps_projection.net.2.bias",
}


def checkpoint(model_type="t2v", fps_keys=True):
    """Random tensors with the names and shapes of a small SkyReels-V2."""
    channels = 36 if model_type == "i2v" else 16
    sd = DemoWan(
        dim=DIM, ffn_dim=FFN, num_layers=LAYERS, in_dim=channels, model_type=model_type
    ).state_dict()
    if fps_keys:
        shapes = [(2, DIM), (DIM, DIM), (DIM,), (6 * DIM, DIM), (6 * DIM,)]
        sd |= dict(zip(FPS_NAMES, map(torch.zeros, shapes), strict=True))
    for name, value in sd.items():
        scale = value[0].numel() ** -0.5 if value.ndim > 1 else 0.3
        sd[name] = value + torch.randn_like(value) * scale
    return sd


def transformer(sd):
    diffusers = pytest.importorskip(
        "diffusers", reason="diffusers is not installed: pip install -r tests/requirements.txt"
    )
    model = diffusers.SkyReelsV2Transformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=DIM // HEADS, ffn_dim=FFN, num_layers=LAYERS,
        cross_attn_norm=True, inject_sample_info=True,
    )  # fmt: skip
    names = {name: FPS_NAMES.get(name) or diffusers_name(name) for name in sd}
    model.load_state_dict({names[k]: v for k, v in sd.items()})
    return model.eval()


@pytest.fixture
def load(write):
    """`load(file name, fps, weight dtype)`: the node's model and text."""
    module = importlib.import_module("motioncache_pack.nodes.load_skyreels")

    def run(name="sky.safetensors", fps="24", weight_dtype="default"):
        return module.MotionCacheLoadSkyReels.execute(name, fps, weight_dtype).result

    return run


def host_alone(sd):
    """What ComfyUI's own loader makes of the same file."""
    import comfy.sd

    return comfy.sd.load_diffusion_model_state_dict(dict(sd)).model.diffusion_model.eval()


def network(model):
    return model.model.diffusion_model.eval()


def inputs(batch=2, frames=3, height=8, width=6):
    return torch.randn(batch, 16, frames, height, width), torch.randn(batch, TEXT_TOKENS, 4096)


def per_frame(batch=2):
    return torch.tensor([[0.0, 400.0, 1000.0], [900.0, 12.5, 300.0]])[:batch]


def oracle(theirs, x, t, text, fps):
    # with a timestep per frame diffusers adds one frame rate to the whole batch
    rates = [0 if fps == "16" else 1] * (1 if t.ndim == 2 else len(x))
    arguments = {"enable_diffusion_forcing": t.ndim == 2, "fps": rates, "return_dict": False}
    return theirs(x, t, text, **arguments)[0]


def error(found, expected):
    assert found.shape == expected.shape
    # an output near zero would be close to anything
    assert expected.std() > 0.1
    return float((found - expected).norm() / expected.norm())


@torch.no_grad()
@pytest.mark.parametrize(("fps", "prefix"), [("16", ""), ("24", "model.diffusion_model.")])
def test_the_model_is_diffusers_transformer_with_its_frame_rate(write, load, fps, prefix):
    sd = checkpoint()
    write("sky.safetensors", {prefix + k: v for k, v in sd.items()})
    model, text = load(fps=fps)
    theirs, ours, unfolded = transformer(sd), network(model), host_alone(sd)
    x, states = inputs()
    for t in (per_frame(), per_frame()[:, 1]):
        expected = oracle(theirs, x, t, states, fps)
        assert error(ours(x, t, states), expected) <= TOLERANCE
        assert error(unfolded(x, t, states), expected) > CLEARLY_OFF
        other = oracle(theirs, x, t, states, "24" if fps == "16" else "16")
        assert error(ours(x, t, states), other) > CLEARLY_OFF
    assert f"2 blocks, width 256, fps embedding folded for {fps} fps" in text


def test_the_host_has_nothing_to_warn_of(write, load, caplog):
    sd = checkpoint() | {"model_type.SkyReels-V2-DF-1.3B-540P": torch.zeros(1)}
    write("sky.safetensors", sd)
    host_alone(sd)
    assert "fps_embedding" in caplog.text
    assert "model_type.SkyReels" in caplog.text
    caplog.clear()
    model, _ = load()
    assert "fps_" not in caplog.text
    assert "model_type" not in caplog.text
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")]
    assert type(model.model).__name__ == "WAN21"


@torch.no_grad()
def test_other_wan_files_are_loaded_as_the_host_loads_them(write, load):
    sd = checkpoint(fps_keys=False)
    write("SkyReels-V2-DF-14B.safetensors", sd)
    model, text = load("SkyReels-V2-DF-14B.safetensors", "16")
    x, states = inputs(frames=2)
    t = torch.tensor([700.0, 20.0])
    assert torch.equal(network(model)(x, t, states), host_alone(sd)(x, t, states))
    assert "by file name SkyReels-V2-DF-14B" in text


def test_image_to_video_is_loaded_and_named(write, load):
    write("sky.safetensors", checkpoint("i2v", fps_keys=False))
    model, text = load()
    assert model.model.image_to_video
    assert "not a diffusion-forcing model" in text


@torch.no_grad()
@pytest.mark.parametrize("header", [False, True], ids=["tensors", "header"])
def test_scaled_fp8_is_the_model_of_the_weights_it_stands_for(write, load, header):
    """Both ways in which files say that they are scaled; in one the header names the layers."""
    sd = checkpoint()
    scaled, layers = dict(sd), {}
    for name, weight in sd.items():
        if weight.ndim == 2 and (".ffn." in name or "_attn." in name or "fps_projection" in name):
            layer, scale = name.removesuffix(".weight"), weight.abs().max() / 400
            scaled[name] = (weight / scale).to(torch.float8_e4m3fn)
            scaled[f"{layer}.{'weight_scale' if header else 'scale_weight'}"] = scale
            sd[name] = scaled[name].float() * scale
            layers[layer] = {"format": "float8_e4m3fn"}
    told = {"metadata": {"_quantization_metadata": json.dumps({"layers": layers})}}
    if not header:
        # two elements: multiply in full precision
        scaled["scaled_fp8"], told = torch.zeros(2, dtype=torch.float8_e4m3fn), {}
    write("sky.safetensors", scaled, **told)
    model, _ = load()
    x, states = inputs()
    expected = oracle(transformer(sd), x, per_frame(), states, "24")
    assert error(network(model)(x, per_frame(), states), expected) <= TOLERANCE
    without = host_alone({k: v for k, v in sd.items() if "fps_" not in k})
    assert error(without(x, per_frame(), states), expected) > CLEARLY_OFF


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["fp8_e4m3fn", "fp8_e5m2"])
def test_weight_dtype_is_the_hosts(write, load, dtype):
    sd = checkpoint()
    write("sky.safetensors", sd)
    model, _ = load(weight_dtype=dtype)
    weight = network(model).blocks[0].ffn[0].weight
    assert weight.dtype == getattr(torch, f"float8_{dtype[4:]}")
    x, states = inputs()
    expected = oracle(transformer(sd), x, per_frame(), states, "24")
    plain = error(host_alone(sd)(x, per_frame(), states), expected)
    assert error(network(model)(x, per_frame(), states), expected) < plain / 2


@torch.no_grad()
def test_a_reload_is_the_same_model(write, load):
    """What the host does to compile, for hooks and for several GPUs."""
    write("sky.safetensors", checkpoint())
    model, _ = load(fps="16")
    build, arguments = model.clone().cached_patcher_init
    x, states = inputs()
    for again in (build(*arguments), build(*arguments, disable_dynamic=True)):
        assert again.model is not model.model
        found = network(again)(x, per_frame(), states)
        assert torch.equal(found, network(model)(x, per_frame(), states))


def test_the_host_does_not_read_diffusers_names(host):
    """The reason to refuse them: were it to learn it, this node could load them."""
    import comfy.sd

    sd = {diffusers_name(k): v for k, v in checkpoint(fps_keys=False).items()}
    assert comfy.sd.load_diffusion_model_state_dict(sd) is None


def test_a_short_run(host, write, load):
    write("sky.safetensors", checkpoint())
    model, _ = load()
    result = host.run(model, host.text(1, TEXT_TOKENS), host.text(2, TEXT_TOKENS), steps=2)
    assert torch.isfinite(result).all()
    assert result.std() > 0.1
