"""Every family in bfloat16, which is what most people run: ComfyUI's own networks, its sampler."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from motioncache_pack.tests.comfyui.host_families import HOST_FAMILIES
from motioncache_pack.tests.comfyui.host_weights import parts
from motioncache_pack.tests.comfyui.test_families_host import PLAIN, STEPS, Subject, every, thrice
from motioncache_pack.tests.comfyui.test_hidden_blocks_host import KINDS
from motioncache_pack.tests.core.oracle import random_rows
from motioncache_pack.tests.core.runs import dictate
from motioncache_pack.tests.support import host_wan
from motioncache_pack.tests.support.assert_close import assert_same, relative_error

pytestmark = pytest.mark.comfy

EPS = torch.finfo(torch.bfloat16).eps
WAN = {"wan": host_wan.Variant("model.WanModel", host_wan.T2V), **host_wan.VARIANTS}
FAMILIES = [
    "wan", "vace", "s2v", "animate", "humo", "scail", "hunyuan video", "hunyuan video 1.5",
    "kandinsky 5", "minimax h3", "ltx video", "ltx 2", "predict2", "cogvideox", "mochi",
]  # fmt: skip

# the host hands its controls over as a transposed view, of which sums are rounded in another order
OTHER_LAYOUT = ("vace",)


def in_halves(pack, name, monkeypatch):
    """A model of the family that computes in bfloat16, its sampler, and its tokens."""
    monkeypatch.setattr(pack.host.cli_args.args, "bf16_unet", True)
    if name in WAN:
        variant = WAN[name]
        model, tokens = host_wan.load(pack.host, variant), math.prod(variant.grid)
        texts = [host_wan.prompt(pack.host, variant, seed) for seed in (1, 2)]

        def sample(model, cfg=3.0):
            return pack.host.run(model, *texts, variant.latent, STEPS, cfg=cfg)
    elif name in KINDS:
        kind = KINDS[name](pack)
        model, tokens, sample = kind.model, kind.tokens, partial(kind.sample, steps=STEPS)
    else:
        subject = Subject(pack, HOST_FAMILIES[name])
        model, tokens, sample = subject.model, subject.tokens, subject.sample
    network = model.model.diffusion_model.to(torch.bfloat16)
    # on a CPU the host computes in fp32, whatever the weights are
    network.dtype, model.model.manual_cast_dtype = torch.bfloat16, None
    return model, sample, tokens


def worst(wanted, got):
    return max(relative_error(*pair) for pair in zip(parts(wanted), parts(got), strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_computed_is_what_the_model_computes(pack, name, monkeypatch):
    model, sample, tokens = in_halves(pack, name, monkeypatch)
    dtypes = set()
    hook = model.model.diffusion_model.register_forward_pre_hook(
        lambda _, given: dtypes.update(x.dtype for x in parts(given[0]))
    )
    wanted = sample(model)
    hook.remove()
    assert dtypes == {torch.bfloat16}
    dictate(monkeypatch, "dense", *[range(tokens)] * (STEPS - 1))
    patched, handle = pack.patch(model, **PLAIN)
    got = sample(patched)
    if name in OTHER_LAYOUT:
        assert 0 < worst(wanted, got) < 8 * EPS
    else:
        every(assert_same, wanted, got)
    assert "partial" in {call.kind for call in handle.latest.calls()}

    dictate(monkeypatch, *["dense", random_rows(tokens, tokens // 3, 5), "reuse"] * STEPS)
    patched, handle = pack.patch(model, **PLAIN)
    outs = thrice(patched)
    sample(patched, cfg=1.0)
    assert "partial" in {call.kind for call in handle.latest.calls()}
    errors = [worst(outs[i], out) for i in range(0, len(outs), 3) for out in outs[i + 1 : i + 3]]
    # the residual is rounded once, and its sum with what entered the blocks once more
    assert max(errors) < 4 * EPS
