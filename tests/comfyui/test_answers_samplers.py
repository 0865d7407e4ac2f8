"""Every sampler of ComfyUI with whole evaluations foretold: the share asked for is computed."""

import pytest
import torch
from motioncache_pack.motioncache_core.common.reasons import code_of

pytestmark = pytest.mark.comfy

STEPS = 12
# how many evaluations these make depends on what the model answers
ADAPTIVE = {"dpm_adaptive"}


def samplers():
    try:
        import comfy.samplers
    except ImportError:
        return ["none"]
    return list(comfy.samplers.SAMPLER_NAMES)


def counted(model):
    """The model, and a list that grows by one for every evaluation that calls the network."""
    calls, model = [], model.clone()

    def count(executor, x, timestep, *args, **kwargs):
        calls.append(float(timestep.flatten()[0]))
        return executor(x, timestep, *args, **kwargs)

    model.add_wrapper_with_key("diffusion_model", "count", count)
    return model, calls


@pytest.mark.parametrize("sampler", samplers())
def test_the_share_that_is_asked_for_is_computed(pack, sampler):
    bare, calls = counted(pack.wan())
    wanted = pack.sample(bare, steps=STEPS, sampler=sampler)
    evaluations = len(calls)
    off, handle = pack.patch(pack.wan(), policy="answer", reuse_threshold=0.0)
    assert torch.equal(pack.sample(off, steps=STEPS, sampler=sampler), wanted)
    model, calls = counted(pack.wan())
    model, handle = pack.execute("MotionCachePatcher", model, "balanced")
    got = pack.sample(model, steps=STEPS, sampler=sampler)
    trace = handle.latest
    if sampler in ADAPTIVE:
        assert "cannot be followed" in trace.reason
        assert torch.equal(got, wanted)
        return
    assert not trace.reason
    assert len(trace.evaluations) == evaluations
    assert len(calls) == round(0.4 * evaluations)
    assert sum(e.kind == "dense" for e in trace.evaluations) == round(0.4 * evaluations)
    assert bool(torch.isfinite(got).all())
    if {code_of(r) for r in trace.remarks} & {"noise_added", "answers_apart"}:
        # a network of random weights has no clean latents to go by
        return
    assert (got - wanted).norm() / wanted.norm() < 0.2
