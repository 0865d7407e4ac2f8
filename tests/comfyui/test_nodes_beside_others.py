"""The nodes beside what only the real ComfyUI has: EasyCache, LoRA patches, its samplers."""

import logging
import sys

import pytest
import torch
from motioncache_pack.motioncache_core import ConflictError
from motioncache_pack.tests.support.node_runs import (  # noqa: F401
    STEPS,
    marks,
    one_thread,
    options_of,
    pack,
    supported,
)

pytestmark = pytest.mark.comfy


def easycache(model, name="EasyCacheNode"):
    from comfy_extras import nodes_easycache

    return getattr(nodes_easycache, name).execute(model, 0.2, 0.15, 0.95, False).result[0]


@pytest.mark.parametrize("name", ["EasyCacheNode", "LazyCacheNode"])
def test_easycache_before(pack, name):  # noqa: F811
    model = easycache(pack.wan(), name)
    before = options_of(model)
    with pytest.raises(ConflictError, match=r"EasyCache.*Remove one of them"):
        pack.patch(model)
    assert options_of(model) == before


@pytest.mark.parametrize("name", ["EasyCacheNode", "LazyCacheNode"])
def test_easycache_behind(pack, name):  # noqa: F811
    patched, handle = pack.patch(pack.wan())
    calls = []
    hook = patched.model.diffusion_model.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(ConflictError, match=r"EasyCache.*Remove one of them"):
        pack.sample(easycache(patched, name))
    assert calls == []
    assert handle.latest is None
    pack.sample(patched)
    hook.remove()
    assert len(calls) == STEPS


def lora(model, strength=1.0):
    """A random change of every linear layer of the blocks, as a LoRA loader adds it."""
    keys = [k for k in model.model_state_dict() if ".blocks." in k and k.endswith("weight")]
    rng = torch.Generator().manual_seed(8)
    patches = {}
    for key in keys:
        weight = model.model_state_dict()[key]
        if weight.ndim == 2:
            patches[key] = ("diff", (0.05 * torch.randn(weight.shape, generator=rng),))
    clone = model.clone()
    assert set(clone.add_patches(patches, strength)) == set(patches)
    return clone


@pytest.mark.parametrize("order", ["before", "behind"])
def test_weight_patches_stay_in_force(pack, order):  # noqa: F811
    def build(**settings):
        if order == "before":
            return pack.patch(lora(pack.wan()), **settings)
        patched, handle = pack.patch(pack.wan(), **settings)
        return lora(patched), handle

    plain, wanted = pack.sample(pack.wan()), pack.sample(lora(pack.wan()))
    effect = (wanted - plain).norm()
    off, _ = build(reuse_threshold=0.0)
    assert torch.equal(pack.sample(off), wanted)
    on, handle = build()
    got = pack.sample(on)
    assert "." in marks(handle.latest)
    assert (got - wanted).norm() < 0.2 * effect


def test_one_model_with_and_without_a_weight_patch(pack):  # noqa: F811
    # patching weights in place and back is the host's work; a stale K/V store would show here
    model = pack.wan()
    patched, _ = pack.patch(model)
    with_lora = lora(patched)
    first = pack.sample(patched)
    second = pack.sample(with_lora)
    assert torch.equal(pack.sample(patched), first)
    assert not torch.equal(second, first)
    assert torch.equal(pack.sample(model), pack.sample(pack.wan()))


# threshold and greatest error; a sampler that adds noise moves the tokens by more in each step
SAMPLERS = {
    "dpmpp_2m": (0.02, 0.02), "uni_pc": (0.02, 0.02), "res_multistep": (0.02, 0.02),
    "dpmpp_2m_sde": (0.5, 0.05), "lcm": (2.0, 0.3),
}  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_of_the_host(pack, sampler):  # noqa: F811
    how, (threshold, error) = {"sampler": sampler, "steps": 20}, SAMPLERS[sampler]
    settings = {"reuse_threshold": threshold}
    got, trace = pack.cached(**how, settings=settings)
    wanted = pack.sample(pack.wan(), **how)
    assert torch.equal(got, pack.cached(**how, settings=settings)[0])
    assert trace.reason == ""
    assert marks(trace)[:2] + marks(trace)[-1] == "DDD"
    assert {"p", "."} & set(marks(trace))
    assert ((got - wanted).norm() / wanted.norm()) < error


def test_a_basic_guider_has_one_branch(pack):  # noqa: F811
    from comfy_extras.nodes_custom_sampler import Guider_Basic

    patched, handle = pack.patch(pack.wan())
    guider = Guider_Basic(patched)
    guider.set_conds(pack.host.text(1))
    noise = torch.randn(1, 16, 3, 8, 8)
    sampler = pack.host.samplers.sampler_object("euler")
    guider.sample(noise, torch.zeros_like(noise), sampler, pack.host.sigmas(patched, STEPS))
    assert {c.branches for c in handle.latest.calls()} == {1}
    assert "." in marks(handle.latest)


def test_a_broken_run_is_no_error_in_the_log(pack, caplog):  # noqa: F811
    patched, _ = pack.patch(pack.wan())
    stop = pack.host.model_management.InterruptProcessingException

    def callback(step, *_):
        if step == 9:
            raise stop

    with caplog.at_level(logging.DEBUG), pytest.raises(stop):
        pack.sample(patched, callback=callback)
    said = [r.getMessage() for r in caplog.records if "MotionCache" in r.getMessage()]
    # before the run that its steps are few, and nothing of its end
    assert [f"{STEPS} sampling steps" in s for s in said] == [True]


def test_the_pack_pulls_in_no_server(pack):  # noqa: F811
    assert pack.nodes
    assert "server" not in sys.modules
