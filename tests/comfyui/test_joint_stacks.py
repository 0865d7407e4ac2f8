"""What people put on a model of a joint stream beside MotionCache, and models of such a class that
are taken as a whole: LoRA, fp8 weights, compiled blocks, an override underneath, image models."""

from __future__ import annotations

import pytest
import torch
from motioncache_pack.tests.comfyui.host_families import (
    HOST_FAMILIES,
    hunyuan,
    hunyuan_model,
    newer,
)
from motioncache_pack.tests.comfyui.host_weights import parts
from motioncache_pack.tests.comfyui.test_families_host import PLAIN, STEPS, Subject, every, kinds
from motioncache_pack.tests.core.oracle import random_rows
from motioncache_pack.tests.core.runs import dictate
from motioncache_pack.tests.support.assert_close import assert_close
from motioncache_pack.tests.support.node_runs import foretold

pytestmark = pytest.mark.comfy

FP8 = torch.float8_e4m3fn


def lora(model, host):
    """On the projections of all blocks of both kinds."""
    rng, file = torch.Generator().manual_seed(4), {}
    for name, weight in model.model.diffusion_model.state_dict().items():
        if (
            "blocks." in name
            and weight.ndim == 2
            and name.endswith(("qkv.weight", "linear1.weight"))
        ):
            key = f"diffusion_model.{name.removesuffix('.weight')}"
            file[f"{key}.lora_A.weight"] = torch.randn(4, weight.shape[1], generator=rng) / 12
            file[f"{key}.lora_B.weight"] = torch.randn(weight.shape[0], 4, generator=rng) / 12
    return host.sd.load_lora_for_models(model, None, file, 0.7, 0)[0]


def overridden(model, host):
    """An attention back end of another pack."""
    clone = model.clone()

    def sage_attention(func, *args, **kwargs):
        return func(*args, **kwargs)

    options = clone.model_options.setdefault("transformer_options", {})
    options["optimized_attention_override"] = sage_attention
    return clone


def compiled(model, host):
    """Every block, by the host's helper."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    torch._dynamo.reset()
    clone = model.clone()
    keys = [f"diffusion_model.double_blocks.{i}" for i in range(2)]
    keys += [f"diffusion_model.single_blocks.{i}" for i in range(2)]
    set_torch_compile_wrapper(model=clone, backend="eager", keys=keys)
    return clone


@pytest.mark.parametrize("put", [lora, overridden, compiled])
def test_it_stays_in_force(pack, put, monkeypatch):
    subject = Subject(pack, HOST_FAMILIES["hunyuan video"])
    bare = subject.sample(subject.model)
    subject.model = put(subject.model, pack.host)
    wanted = subject.sample(subject.model)
    if put is lora:
        assert float((parts(wanted)[0] - parts(bare)[0]).abs().max()) > 0.01
    dictate(monkeypatch, "dense", *[range(subject.tokens)] * (STEPS - 1))
    got, trace = subject.traced()
    every(assert_close, wanted, got)
    assert {c.kind for e in trace.evaluations[1:] for c in e.calls} == {"partial"}


def test_weights_of_8_bits(pack, monkeypatch):
    def load(host):
        from comfy.ldm.hunyuan_video.model import HunyuanVideo

        made = hunyuan_model()(host)
        weights = {k: v.clone() for k, v in made.model.diffusion_model.state_dict().items()}
        assert HunyuanVideo is type(made.model.diffusion_model)
        return host.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": FP8})

    subject = Subject(pack, hunyuan(model=load))
    block = subject.model.model.diffusion_model.double_blocks[0]
    assert block.img_attn.qkv.weight.dtype == FP8
    wanted = subject.sample(subject.model)
    rows = random_rows(subject.tokens, subject.tokens // 2, 3)
    dictate(monkeypatch, "dense", *[range(subject.tokens)] * 3, *[rows] * (STEPS - 4))
    got, trace = subject.traced()
    assert kinds(trace)[1] == "partial" and torch.isfinite(parts(got)[0]).all()
    dictate(monkeypatch, "dense", *[range(subject.tokens)] * (STEPS - 1))
    every(assert_close, wanted, subject.traced()[0])


def test_a_model_that_upscales_is_foretold_as_a_whole(pack):
    case = newer(channels=98, meanflow=True)
    model = case.model(pack.host)
    assert type(model.model).__name__ == "HunyuanVideo15_SR_Distilled"
    patched, handle = pack.patch(model, **PLAIN)
    case.sample(pack.host, patched, 16)
    why, _ = foretold(handle.latest)
    assert "upscaling" in why
