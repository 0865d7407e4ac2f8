"""The nodes beside what only the real ComfyUI has: EasyCache, patched weights, a basic guider."""

import logging
import sys

import pytest
import torch
from motioncache_pack.motioncache_core import ConflictError
from motioncache_pack.tests.support.node_runs import STEPS, marks, options_of

pytestmark = pytest.mark.comfy


def easycache(model, name):
    from comfy_extras import nodes_easycache

    return getattr(nodes_easycache, name).execute(model, 0.2, 0.15, 0.95, False).result[0]


def test_easycache_before(pack):
    model = easycache(pack.wan(), "EasyCacheNode")
    before = options_of(model)
    with pytest.raises(ConflictError, match=r"EasyCache.*Remove one of them"):
        pack.patch(model)
    assert options_of(model) == before


def test_easycache_behind(pack):
    patched, handle = pack.patch(pack.wan())
    calls = []
    hook = patched.model.diffusion_model.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(ConflictError, match=r"LazyCache.*of them: LazyCache or MotionCache"):
        pack.sample(easycache(patched, "LazyCacheNode"))
    assert calls == []
    assert handle.latest is None
    pack.sample(patched)
    hook.remove()
    assert len(calls) == STEPS


def lora(model):
    """A random change of every linear layer of the blocks, as a LoRA loader adds it."""
    rng = torch.Generator().manual_seed(8)
    patches = {
        key: ("diff", (0.05 * torch.randn(weight.shape, generator=rng),))
        for key, weight in model.model_state_dict().items()
        if ".blocks." in key and key.endswith("weight") and weight.ndim == 2
    }
    clone = model.clone()
    assert set(clone.add_patches(patches, 1.0)) == set(patches)
    return clone


def test_one_model_with_and_without_a_weight_patch(pack):
    # patching weights in place and back is the host's work; a stale K/V store would show here
    model = pack.wan()
    patched, _ = pack.patch(model)
    with_lora = lora(patched)
    first = pack.sample(patched)
    second = pack.sample(with_lora)
    assert torch.equal(pack.sample(patched), first)
    assert not torch.equal(second, first)
    assert torch.equal(pack.sample(model), pack.sample(pack.wan()))


def test_a_basic_guider_has_one_branch(pack):
    from comfy_extras.nodes_custom_sampler import Guider_Basic

    patched, handle = pack.patch(pack.wan())
    guider = Guider_Basic(patched)
    guider.set_conds(pack.host.text(1))
    noise = torch.randn(1, 16, 3, 8, 8)
    sampler = pack.host.samplers.sampler_object("euler")
    guider.sample(noise, torch.zeros_like(noise), sampler, pack.host.sigmas(patched, STEPS))
    assert {c.branches for c in handle.latest.calls()} == {1}
    assert "." in marks(handle.latest)


def test_a_broken_run_is_no_error_in_the_log(pack, caplog):
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


def test_the_pack_pulls_in_no_server(pack):
    assert pack.nodes
    assert "server" not in sys.modules
