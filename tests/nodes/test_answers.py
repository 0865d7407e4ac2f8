"""Whole evaluations foretold: the share that is asked for is computed, with every sampler."""

from itertools import pairwise

import pytest
import torch
from motioncache_pack.motioncache_core import PRESETS
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.tests.support.node_runs import marks, options_of, options_with_off

STEPS = 20
# evaluations of a run of so many steps
SAMPLERS = {"euler": STEPS, "heun": 2 * STEPS - 1, "euler_ancestral": STEPS}


@pytest.fixture
def counted(pack):
    """A model, and a list that grows by the batch rows of every call of its network."""
    model, rows = pack.wan(), []
    network = model.model.diffusion_model
    hook = network.blocks[0].register_forward_hook(lambda _, args, out: rows.append(len(args[0])))
    yield model, rows
    hook.remove()


def sampled(pack, model, preset="balanced", **how):
    """What a preset gives, and the trace."""
    patched, handle = pack.execute("MotionCachePatcher", model, preset)
    return pack.sample(patched, STEPS, **how), handle.latest


def sampled_with(pack, *, settings, **how):
    """The same of settings of policy answer."""
    patched, handle = pack.patch(pack.wan(), **PRESETS["balanced"].as_dict() | settings)
    return pack.sample(patched, STEPS, **how), handle.latest


def distance(got, wanted):
    return float((got - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("preset", ["quality", "balanced", "fast"])
def test_a_preset_computes_its_share(pack, counted, preset, sampler):
    model, rows = counted
    wanted = pack.sample(model, STEPS, sampler=sampler)
    # both prompts in one call
    assert rows == [2] * SAMPLERS[sampler]
    rows.clear()
    got, trace = sampled(pack, model, preset, sampler=sampler)
    computed = round(PRESETS[preset].compute_budget * SAMPLERS[sampler])
    assert rows == [2] * computed
    assert len(trace.evaluations) == SAMPLERS[sampler]
    assert marks(trace).count("D") == computed and marks(trace)[0] == marks(trace)[-1] == "D"
    noisy = [code_of(remark) for remark in trace.remarks] == ["noise_added"]
    assert noisy == (sampler == "euler_ancestral")
    # a network of random weights has no clean latents, which are what is left beside new noise
    assert 0 < distance(got, wanted) < (0.5 if noisy else 0.15)


def test_more_is_closer(pack):
    wanted = pack.sample(pack.wan(), STEPS)
    far = [distance(sampled(pack, pack.wan(), p)[0], wanted) for p in ("fast", "quality")]
    assert far[1] < far[0]


def test_off_is_the_model_without_the_node(pack):
    """A preset for it, and a threshold of 0 whatever else is set."""
    model = pack.wan()
    wanted, before = pack.sample(model, STEPS), options_of(model)
    patched, handle = pack.execute("MotionCachePatcher", model, "off")
    assert options_with_off(patched) == before
    assert "the preset is off" in handle.latest.reason
    assert torch.equal(pack.sample(patched, STEPS), wanted)
    got, trace = sampled_with(pack, settings={"reuse_threshold": 0.0})
    assert torch.equal(got, wanted) and "reuse_threshold is 0" in trace.reason


def test_computing_everything_is_bit_identical(pack):
    """Nothing is owed, so nothing is paid back."""
    got, trace = sampled_with(pack, settings={"compute_budget": 1.0})
    assert marks(trace) == "D" * STEPS and trace.answer_bytes > 0
    assert torch.equal(got, pack.sample(pack.wan(), STEPS))


def test_settings_count(pack):
    """The three of them that whole evaluations have besides the budget."""
    usual, _ = sampled(pack, pack.wan())
    for settings in ({"forecast": 0.0}, {"hindsight": False}):
        got, trace = sampled_with(pack, settings=settings)
        assert marks(trace).count("D") == 8 and distance(got, usual) > 1e-6
    _, trace = sampled_with(pack, settings={"warmup_steps": 4})
    assert marks(trace).startswith("DDDD.") and marks(trace).count("D") == 8
    _, trace = sampled_with(pack, settings={"end_percent": 0.5})
    late = [e.kind for e in trace.evaluations if e.sigma <= trace.evaluations[-9].sigma]
    assert late and set(late) == {"dense"}


def test_a_prompt_that_joins_late_is_computed_first(pack):
    """It has no answers to go by; the prompt that was there from the start goes on."""
    late = pack.host.text(3)
    late[0][1]["start_percent"] = 0.5
    prompts = pack.host.text(1) + late
    patched, handle = pack.execute("MotionCachePatcher", pack.wan(), "balanced")
    got = pack.host.run(patched, prompts, pack.host.text(2), steps=STEPS)
    wanted = pack.host.run(pack.wan(), prompts, pack.host.text(2), steps=STEPS)
    assert distance(got, wanted) < 0.15
    parts = [{call.branches for call in e.calls} for e in handle.latest.evaluations]
    assert parts[0] == {2} and parts[-1] == {3}


def test_a_sampler_that_looks_at_the_answers_is_left_alone(pack):
    """How many evaluations it makes cannot be known before it makes them."""

    def curious(model, x, sigmas, extra_args=None, callback=None, disable=None):
        ones = x.new_ones([x.shape[0]])
        for sigma, following in pairwise(sigmas):
            denoised = model(x, sigma * ones, **(extra_args or {}))
            if denoised.mean() > 0:
                denoised = model(x, sigma * ones, **(extra_args or {}))
            x = denoised + (x - denoised) * following / sigma
        return x

    made = []
    for model in (pack.wan(), pack.execute("MotionCachePatcher", pack.wan(), "balanced")):
        patched, handle = (model, None) if not isinstance(model, tuple) else model
        guider = pack.host.guider(patched, pack.host.text(1), pack.host.text(2))
        noise = torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        sampler = pack.host.samplers.KSAMPLER(curious)
        made.append(guider.sample(noise, 0 * noise, sampler, pack.host.sigmas(patched, STEPS)))
    assert torch.equal(*made)
    assert "the sampler cannot be followed (its steps depend on" in handle.latest.reason
