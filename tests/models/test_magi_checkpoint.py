"""Shards, the kind of a model, and 8-bit weights against the published layers' arithmetic."""

import pytest
import torch
from motioncache_pack.motioncache_core import SettingsError, UnsupportedModelError
from motioncache_pack.motioncache_core.models.magi1.checkpoint import (
    check_shards,
    dequantise,
    is_distilled,
    own_names,
    shard_names,
)
from motioncache_pack.motioncache_core.models.magi1.config import MARKER

FP8 = torch.float8_e4m3fn


def test_names_of_shards():
    assert shard_names("magi.safetensors") == ["magi.safetensors"]
    assert shard_names("model-00002-of-00003.safetensors") == [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    assert shard_names("a-1-of-2.safetensors") == ["a-1-of-2.safetensors", "a-2-of-2.safetensors"]


@pytest.mark.parametrize(
    ("present", "message"),
    [
        (["a-1-of-3.safetensors", "a-3-of-3.safetensors"], r"missing: a-2-of-3\.safetensors\. Put"),
        (["a-1-of-3.safetensors", "a-2-of-3.safetensors.zst"], r"a-2-of-3\.safetensors\.zst is p"),
    ],
)
def test_shards_that_are_not_there(present, message):
    wanted = shard_names("a-1-of-3.safetensors")
    with pytest.raises(UnsupportedModelError, match=message):
        check_shards(wanted, present)
    check_shards(wanted, [*wanted, "other.txt"])


@pytest.mark.parametrize(
    ("name", "kind", "distilled"),
    [
        ("magi/4.5B_distill_quant/model.safetensors", "auto", True),
        ("MAGI-4.5B_Base.safetensors", "auto", False),
        ("MAGI-4.5B_Base.safetensors", "distill", True),
        ("anything", "base", False),
    ],
)
def test_base_or_distilled(name, kind, distilled):
    assert is_distilled(name, kind) is distilled


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "base_of_distill"])
def test_a_name_that_does_not_tell(name):
    with pytest.raises(SettingsError, match="Set kind to base or distill"):
        is_distilled(name, "auto")
    with pytest.raises(SettingsError, match="allowed are auto, base, distill"):
        is_distilled(name, "best")


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_what_savers_put_before_names(prefix):
    found = own_names({prefix + MARKER: torch.zeros(1), prefix + "rope.bands": torch.zeros(1)})
    assert set(found) == {MARKER, "rope.bands"}


def published_layer(x, weight, weight_scale, input_scale, smooth_scale=None):
    """What the published layers compute but for the rounding of the input: it is divided by its
    scale, and the 8-bit product multiplied by one number of either scale."""
    divided = x / (input_scale if smooth_scale is None else smooth_scale)
    product = divided.double() @ weight[0].double().T
    return product * (weight_scale * input_scale.reshape(-1)[0]).double()


def quantised(smooth):
    weight = (torch.randn(1, 6, 16) * 100).to(FP8)
    made = {"weight": weight, "weight_scale": torch.rand(1) + 0.1}
    if smooth:
        made |= {"input_scale": torch.rand(()) + 0.1, "smooth_scale": torch.rand(1, 16) + 0.5}
    else:
        made["input_scale"] = torch.full((16,), 0.37)
    return made


@pytest.mark.parametrize("smooth", [False, True])
def test_a_weight_is_what_its_layer_multiplies_by(smooth):
    layer = quantised(smooth)
    tensors = {f"a.fc.{name}": value for name, value in layer.items()}
    tensors["a.norm.weight"] = torch.randn(4)
    found = dequantise(tensors)
    assert found.keys() == {"a.fc.weight", "a.norm.weight"}
    assert found["a.norm.weight"] is tensors["a.norm.weight"]
    weight = found["a.fc.weight"]
    assert weight.dtype == torch.bfloat16 and weight.shape == (6, 16)
    x = torch.randn(5, 16)
    expected = published_layer(x, **layer)
    error = (x.double() @ weight.double().T - expected).norm() / expected.norm()
    assert error < 4e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_scale": torch.arange(1.0, 17.0)}, "differs from input to input, from 1 to 16"),
        ({"weight_scale": torch.ones(6)}, "has 6 numbers in weight_scale"),
        ({"input_scale": None, "smooth_scale": torch.ones(1, 16)}, "and no input_scale"),
        ({"weight_scale": None}, "in 8 bits and has no weight_scale"),
    ],
)
def test_scales_that_do_not_tell_a_weight(change, message):
    layer = quantised(False) | change
    tensors = {f"a.fc.{name}": value for name, value in layer.items() if value is not None}
    with pytest.raises(UnsupportedModelError, match=message):
        dequantise(tensors)
