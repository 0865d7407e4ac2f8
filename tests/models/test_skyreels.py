"""What is read from a SkyReels-V2 checkpoint, and the frame rate folded into a bias."""

from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core import SettingsError, UnsupportedModelError
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.motioncache_core.models.skyreels import describe, fold_fps, fps_index, inspect

DIM, LAYERS = 128, 3
PREFIXES = ("", "model.diffusion_model.")
BIAS = "time_projection.1.bias"
DF_14B = "SkyReels-V2-DF-14B-540P"


class FpsProjection(torch.nn.Sequential):
    """The branch as SkyReels-V2 has it."""

    def __init__(self, dim):
        super().__init__(torch.nn.Linear(dim, dim), torch.nn.SiLU(), torch.nn.Linear(dim, 6 * dim))


class SkyReels(DemoWan):
    """The small Wan with the frame-rate branch computed as a branch."""

    index = 0

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.fps_embedding = torch.nn.Embedding(2, self.dim)
        self.fps_projection = FpsProjection(self.dim)
        self.time_projection.register_forward_hook(self.add)

    def add(self, module, args, e0):
        return e0 + self.fps_projection(self.fps_embedding.weight[self.index])


def skyreels():
    """Every tensor random, also those that start as zeros or ones."""
    model = SkyReels(dim=DIM, ffn_dim=256, num_layers=LAYERS, text_dim=64)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def plain(channels=16, **more):
    """The least that is a Wan transformer, without the frame rate."""
    model = DemoWan(dim=DIM, ffn_dim=256, num_layers=LAYERS, in_dim=channels, text_dim=64)
    return {**model.state_dict(), **more}


def prefixed(sd, prefix):
    return {prefix + name: value for name, value in sd.items()}


@pytest.mark.parametrize(("fps", "per_frame"), [(16, False), (24, True)])
def test_a_wan_with_the_folded_bias_computes_what_the_branch_does(fps, per_frame):
    model = skyreels()
    model.index = fps_index(fps)
    folded = DemoWan.from_state_dict(fold_fps(model.state_dict(), fps)).eval()
    x, text = torch.randn(2, 16, 3, 7, 6), torch.randn(2, 5, 64)
    t = torch.tensor([[0.0, 400.0, 1000.0], [900.0, 12.5, 300.0]])
    t = t if per_frame else t[:, 1]
    expected, found = model(x, t, text), folded(x, t, text)
    assert expected.std() > 0.1
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    model.index = 1 - model.index
    assert (found - model(x, t, text)).norm() > 1e-2 * expected.norm()


@pytest.mark.parametrize(("fps", "prefix"), [(16, PREFIXES[0]), (24, PREFIXES[1])])
def test_the_bias_is_the_sum(fps, prefix):
    model = skyreels()
    vector = model.fps_embedding.weight[0 if fps == 16 else 1]
    expected = model.time_projection[1].bias + model.fps_projection(vector)
    folded = fold_fps(prefixed(model.state_dict(), prefix), fps)[prefix + BIAS]
    assert folded.dtype == torch.float32
    assert (folded - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("prefix", PREFIXES)
def test_nothing_else_changes_and_the_input_stays(prefix):
    sd = prefixed(skyreels().state_dict(), prefix)
    sd["model_type.SkyReels-V2-DF-1.3B-540P"] = torch.zeros(1)
    before = {name: value.clone() for name, value in sd.items()}
    folded = fold_fps(sd, 24)
    assert sd.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in sd.items())
    assert set(folded) == {n for n in sd if "fps_" not in n and "model_type." not in n}
    assert not torch.equal(folded[prefix + BIAS], sd[prefix + BIAS])
    assert all(folded[n] is sd[n] for n in folded if n != prefix + BIAS)


def test_a_checkpoint_without_the_embedding_is_the_same_tensors():
    sd = plain()
    folded = fold_fps({**sd, f"model_type.{DF_14B}": torch.zeros(1)}, 16)
    assert folded.keys() == sd.keys()
    assert all(folded[name] is value for name, value in sd.items())


@pytest.mark.parametrize(
    ("stored", "kept", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-12),
        (torch.bfloat16, torch.bfloat16, 2**-8),
        (torch.float16, torch.float16, 2**-11),
        (torch.float8_e4m3fn, torch.float32, 2**-23),
    ],
    ids=str,
)
def test_the_dtype_of_the_bias(stored, kept, tolerance):
    sd = skyreels().state_dict() | {}
    sd[BIAS] = sd[BIAS].to(stored)
    added = fold_fps(sd | {BIAS: torch.zeros(6 * DIM, dtype=torch.float64)}, 24)[BIAS]
    exact = sd[BIAS].double() + added
    folded = fold_fps(sd, 24)[BIAS]
    assert folded.dtype == kept
    # half a unit in the last place of the largest
    assert (folded.double() - exact).abs().max() <= tolerance * exact.abs().max()


@pytest.mark.parametrize(("name", "per_row"), [("scale_weight", True), ("weight_scale", False)])
def test_scaled_8_bit_floats_are_the_weights_they_stand_for(name, per_row):
    plain_sd = dict(skyreels().state_dict())
    scaled = dict(plain_sd)
    for layer in ("fps_projection.0", "fps_projection.2"):
        weight = plain_sd[f"{layer}.weight"]
        scale = weight.abs().amax(1, keepdim=True) if per_row else weight.abs().max()
        small = (weight / scale).to(torch.float8_e4m3fn)
        scaled |= {f"{layer}.weight": small, f"{layer}.{name}": scale}
        plain_sd[f"{layer}.weight"] = small.float() * scale
    folded = fold_fps(scaled, 24)
    assert (folded[BIAS] - fold_fps(plain_sd, 24)[BIAS]).abs().max() <= 1e-6
    assert not any(key.startswith("fps_") for key in folded)


@pytest.mark.parametrize(
    "change",
    [
        {"fps_projection.0.weight": torch.zeros(DIM, DIM // 2, dtype=torch.uint8)},
        {"fps_projection.0.weight_scale": torch.ones(DIM, 4)},
        {"fps_projection.2.weight": torch.zeros(DIM, DIM)},
        {"fps_embedding.weight": torch.zeros(1, DIM)},
    ],
    ids=["packed", "block scales", "shape of a layer", "one row"],
)
def test_frame_rate_weights_in_an_unknown_format_are_refused(change):
    with pytest.raises(UnsupportedModelError, match=r"is quantised|have shapes"):
        fold_fps({**skyreels().state_dict(), **change}, 24)


def test_index_of_the_embedding():
    assert [fps_index(fps) for fps in (16, 24, 8, 17, 60)] == [0, 1, 1, 1, 1]


def test_no_frame_rate():
    for fps in (0, -16, 24.0, "24", None):
        with pytest.raises(SettingsError, match="whole numbers from 1"):
            fps_index(fps)
    with pytest.raises(SettingsError, match="whole numbers from 1"):
        fold_fps(plain(), 0)


@pytest.mark.parametrize(
    ("prefix", "before_marker"), [("", ""), (PREFIXES[1], ""), (PREFIXES[1], PREFIXES[1])]
)
def test_what_is_found(prefix, before_marker):
    sd = prefixed(plain(), prefix) | {f"{before_marker}model_type.{DF_14B}": torch.zeros(1)}
    facts = inspect(sd)
    assert (facts.prefix, facts.kind) == (prefix, "text_to_video")
    assert (facts.width, facts.blocks, facts.in_channels) == (DIM, LAYERS, 16)
    assert (facts.has_fps, facts.marker, facts.modules) == (False, DF_14B, ())
    assert inspect(prefixed(skyreels().state_dict(), prefix)).has_fps


def test_a_whole_checkpoint_with_text_encoder_and_decoder():
    sd = prefixed(plain(), PREFIXES[1]) | {"vae.conv1.weight": torch.zeros(1)}
    assert inspect(sd).modules == ()
    assert "vae.conv1.weight" in fold_fps(sd, 24)


def image_to_video():
    return DemoWan(dim=DIM, ffn_dim=256, num_layers=2, in_dim=36, model_type="i2v").state_dict()


@pytest.mark.parametrize(
    ("sd", "kind", "modules"),
    [
        (image_to_video, "image_to_video", ()),
        (lambda: plain(channels=36), "image_to_video", ()),
        (lambda: plain(channels=48), "other", ()),
        (lambda: plain(**{"vace_blocks.0.x": torch.zeros(1)}), "other", ("vace_blocks",)),
        (lambda: plain(**{"control_adapter.conv.weight": torch.zeros(1)}), "other",
         ("control_adapter",)),
    ],
    ids=["i2v", "i2v without clip", "5B", "vace", "camera"],
)  # fmt: skip
def test_ordinary_models_load_and_are_named(sd, kind, modules):
    facts = inspect(sd())
    assert (facts.kind, facts.modules) == (kind, modules)
    told = describe(facts, 24, "SkyReels-V2-DF-1.3B.safetensors")
    assert "not a diffusion-forcing model: ComfyUI's ordinary samplers serve it" in told
    assert all(name in told for name in modules)


def test_text_for_a_model_with_the_embedding():
    told = describe(inspect(skyreels().state_dict()), 16)
    assert told.startswith(
        "SkyReels-V2, 3 blocks, width 128, fps embedding folded for 16 fps. Recommended: "
    )
    assert "shift 8" in told and "CFG 6" in told


def test_text_without_the_embedding():
    for marker, file_name, said in (
        (DF_14B, "x.safetensors", f"SkyReels-V2 (by marker {DF_14B})"),
        # the marker knows better than the name
        (DF_14B, "model_T2V.safetensors", f"SkyReels-V2 (by marker {DF_14B})"),
        (None, "sky/Wan2_1-V2-DF-14B_fp16.safetensors", "SkyReels-V2 (by file name Wan2_1"),
        (None, "sky\\skyreels_df.safetensors", "SkyReels-V2 (by file name skyreels_df"),
        ("SkyReels-V2-T2V-14B-540P", "df.safetensors", "Text-to-video (by marker SkyReels-V2-T2V"),
        (None, "wan2.1_t2v_14B.safetensors", "Text-to-video (by file name wan2.1_t2v_14B"),
        # neither a folder nor a part of a word
        (None, "df/model.safetensors", "nothing in the file tells"),
        (None, "pdfs.safetensors", "nothing in the file tells"),
    ):
        more = {} if marker is None else {f"model_type.{marker}": torch.zeros(1)}
        told = describe(inspect(plain(**more)), 24, file_name)
        assert said in told
        assert "folded" not in told
        assert ("not a diffusion-forcing model" in told) == ("Text-to-video (by" in said)


def test_text_for_the_small_model_that_should_have_an_embedding():
    for file_name in ("SkyReels-V2-DF-1.3B.safetensors", "model.safetensors"):
        for width, lost in ((1536, True), (5120, False)):
            told = describe(replace(inspect(plain()), width=width), 24, file_name)
            assert ("SkyReels-V2-DF-1.3B has" in told) == lost


def without(sd, *starts):
    return {name: value for name, value in sd.items() if not name.startswith(starts)}


REFUSED = {
    "nothing": (dict, "no Wan or SkyReels-V2 transformer: expected patch_embedding.weight.* found "
                "no tensors.*Load Diffusion Model"),
    "another network": (
        lambda: {"img_in.weight": torch.zeros(1), "double_blocks.0.x": torch.zeros(1)},
        "no Wan or SkyReels-V2 transformer.*found double_blocks.0.x, img_in.weight.*'Load "
        "Diffusion Model'.*'Load Checkpoint'",
    ),
    "diffusers": (
        lambda: {"blocks.0.attn1.to_q.weight": torch.zeros(1), "scale_shift_table": torch.zeros(1)},
        "diffusers' names.*Skywork/SkyReels-V2-DF-1.3B-540P.*Kijai/WanVideo_comfy.*-Diffusers",
    ),
    "lora": (
        lambda: {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.zeros(1)},
        "a LoRA.*'Load LoRA'",
    ),
    "first shard": (lambda: without(plain(), "blocks.2", "head."), "head.modulation.*one of sev"),
    "last shard": (lambda: without(plain(), "blocks.0", "patch_embedding"), "part of.*one file"),
    "block missing": (lambda: without(plain(), "blocks.1."), r"blocks \[1\] missing"),
    "half a branch": (
        lambda: without(skyreels().state_dict(), "fps_projection.2"),
        "fps_projection.2.weight, fps_projection.2.bias missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_refused_with_what_to_do(case):
    make, message = REFUSED[case]
    for call in (inspect, lambda tensors: fold_fps(tensors, 24)):
        with pytest.raises(UnsupportedModelError, match=message):
            call(make())
    # a prefix hides no reason
    if case in ("diffusers", "first shard", "block missing", "half a branch"):
        with pytest.raises(UnsupportedModelError, match=message):
            inspect(prefixed(make(), PREFIXES[1]))
