"""MAGI-1 in the real ComfyUI: through guider and sampler, against recorded published runs."""

import importlib

import pytest
import torch
from motioncache_pack.motioncache_core import CacheShapeError, SettingsError, UnsupportedModelError
from motioncache_pack.tests.support import magi
from motioncache_pack.tests.support.assert_close import assert_same, relative_error
from motioncache_pack.tests.support.magi_nodes import build, node, prompt, sampled

pytestmark = [pytest.mark.comfy, pytest.mark.usefixtures("supported")]

QUERIES = "videodit_blocks.layers.0.self_attention.linear_qkv.q.weight"


@pytest.mark.parametrize(
    "name",
    [
        "distill", "distill_12", "distill_window1", "distill_i2v", "distill_v2v",
        "base", "base_i2v", "base_v2v", "base_24b",
    ],
)  # fmt: skip
def test_the_published_latents_come_out(name):
    case = magi.recorded(name)
    found = sampled(build(case), case)
    assert case.error(found) <= magi.TOLERANCE
    # between nodes they are in the host's units, which rounds them
    if case.prefix is not None:
        assert relative_error(case.prefix, found[:, :, : case.given]) < 1e-6


def test_weights_in_bf16_compute_in_fp32_on_a_cpu():
    """The host computes in fp32 where the device has no fast bf16."""
    case = magi.recorded("distill_bf16")
    model = build(case, weight_dtype=torch.bfloat16)
    network = model.model.diffusion_model
    assert (network.dtype, network.compute_dtype) == (torch.bfloat16, torch.float32)
    assert case.error(sampled(model, case)) <= 2 * magi.ROUNDING_BF16


def test_a_lora_equals_baked_weights():
    case = magi.recorded("distill")
    model, other = build(case), dict(case.weights)
    more = 0.05 * torch.randn(other[QUERIES].shape)
    model.add_patches({f"diffusion_model.{QUERIES}": (more,)}, 1.0)
    other[QUERIES] = other[QUERIES] + more
    baked = magi.Recorded(**{**case.__dict__, "weights": other})
    found = sampled(model, case)
    assert_same("latents", sampled(build(baked), case), found)
    assert case.error(found) > 1e-2


def test_linear_layers_stored_in_8_bits():
    case = magi.recorded("distill")
    model = build(case, weight_dtype=torch.float8_e4m3fn)
    network = model.model.diffusion_model
    assert network.get_parameter(QUERIES).dtype is torch.float8_e4m3fn
    assert network.x_embedder.weight.dtype is torch.float32
    # 3 bits behind the point, through two blocks and 8 steps
    assert 1e-3 < case.error(sampled(model, case)) < 0.3


@pytest.mark.parametrize("name", ["distill", "base"])
def test_loaded_in_part(host, monkeypatch, name):
    """As with --lowvram: what stays behind is cast and moved, and patched, layer by layer."""
    case, more = magi.recorded(name), 0.05 * torch.randn(256, 256)
    patcher = host.model_patcher.ModelPatcher
    whole, found = patcher.load, []
    for parts in (False, True):
        if parts:

            def little(self, device_to=None, lowvram_model_memory=0, **kwargs):
                return whole(
                    self, device_to, lowvram_model_memory=1, **{**kwargs, "full_load": False}
                )

            monkeypatch.setattr(patcher, "load", little)
        model = build(case)
        model.add_patches({f"diffusion_model.{QUERIES}": (more,)}, 1.0)
        found.append(sampled(model, case))
        assert (model.lowvram_patch_counter() > 0) == parts
    assert relative_error(*found) < 1e-5


def test_a_host_without_groups_of_heads(monkeypatch):
    case = magi.recorded("distill")
    network = importlib.import_module("motioncache_pack.nodes.host.magi_network")
    monkeypatch.setattr(network, "_knows_groups", lambda: False)
    assert case.error(sampled(build(case), case)) <= magi.TOLERANCE


def test_attention_that_another_node_puts_in_place():
    case = magi.recorded("distill")
    seen = []

    def override(func, q, k, v, heads, **kwargs):
        seen.append((q.shape, k.shape, kwargs.get("enable_gqa")))
        return func(q, k, v, heads, **kwargs)

    model = build(case)
    options = model.model_options.setdefault("transformer_options", {})
    options["optimized_attention_override"] = override
    assert case.error(sampled(model, case)) <= magi.TOLERANCE
    # as many heads of keys as of queries: it may not know of groups
    assert {(q[2], k[2], told) for q, k, told in seen} == {(256, 256, None)}


def test_progress_counts_steps_of_chunks():
    case, seen = magi.recorded("distill"), []

    def callback(step, x0, x, total):
        seen.append((step, total, x0.shape, torch.isfinite(x0).all().item()))

    sampled(build(case), case, callback=callback)
    assert [s[0] for s in seen[:6]] == [0, 1, 3, 5, 8, 11]
    assert seen[-1] == (39, 40, case.noise.shape, True)
    assert len(seen) == 16


def test_an_interrupt_stops_between_evaluations(host, monkeypatch):
    case, left = magi.recorded("distill"), [7]
    management = host.model_management
    network = importlib.import_module("motioncache_pack.nodes.host.magi_network")
    chunk = network.MagiHostNetwork.chunk

    def counted(self, *args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            management.interrupt_current_processing()
        return chunk(self, *args, **kwargs)

    monkeypatch.setattr(network.MagiHostNetwork, "chunk", counted)
    with pytest.raises(management.InterruptProcessingException):
        sampled(build(case), case)
    assert left[0] == 0
    management.interrupt_current_processing(False)


def test_an_ordinary_sampler_is_refused(host):
    case = magi.recorded("distill")
    with pytest.raises(UnsupportedModelError, match="MotionCache Magi Sampling"):
        host.run(build(case), prompt(case), prompt(case), latent=torch.zeros_like(case.noise))


def test_another_model_is_refused(host, tiny):
    case = magi.recorded("distill")
    with pytest.raises(UnsupportedModelError, match=r"this one is .*MotionCache Load Magi"):
        node(tiny(host), case)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((2, 16, 6, 4, 6), "batch of 2"),
        ((1, 16, 7, 4, 6), "give 12 latent frames"),
        ((1, 16, 6, 5, 6), "48x40 pixels; .*multiples of 16"),
        ((1, 16, 6, 2, 6), "from 32"),
        ((1, 12, 6, 4, 6), "MotionCache Magi Latent"),
    ],
)
def test_latents_that_do_not_fit_are_refused(shape, told):
    case = magi.recorded("distill")
    guider, sampler, sigmas = node(build(case), case)
    noise = torch.randn(shape)
    with pytest.raises(CacheShapeError, match=told):
        guider.sample(noise, torch.zeros(shape), sampler, sigmas, disable_pbar=True, seed=1)


def test_sigmas_of_another_scheduler_are_refused():
    case = magi.recorded("distill")
    guider, sampler, _ = node(build(case), case)
    latent, sigmas = torch.zeros_like(case.noise), torch.linspace(1, 0, 9)
    with pytest.raises(SettingsError, match=r"SIGMAS of the same MotionCache Magi Sampling"):
        guider.sample(case.noise, latent, sampler, sigmas, disable_pbar=True, seed=1)


def test_a_wrong_prompt_is_refused():
    case = magi.recorded("distill")
    with pytest.raises(CacheShapeError, match=r"\(1, rows, 24\).*t5xxl"):
        node(build(case), case, text=[[torch.zeros(1, 5, 32), {}]])
    with pytest.raises(SettingsError, match="use 8 or 12"):
        node(build(case), case, steps=10)
