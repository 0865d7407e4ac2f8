"""ComfyUI's samplers: whatever order they evaluate in, progress is the noise level."""

from itertools import pairwise

import pytest
import torch
from motioncache_pack.tests.core.runs import Steady
from motioncache_pack.tests.support.node_runs import marks

pytestmark = pytest.mark.comfy

STEPS = 12
SAMPLERS = (
    "euler", "heun", "dpm_2", "dpmpp_2m", "uni_pc", "res_multistep", "lcm", "ddim",
    "euler_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "dpm_fast",
)  # fmt: skip
# evaluates and rejects by its own error estimate
ADAPTIVE = "dpm_adaptive"
# a distance of 0.06 an evaluation: every second one is due
PLAN = {"policy": "chunk", "reuse_threshold": 0.1, "warmup_steps": 3, "max_stale_steps": 0}


def counted(model):
    """The model, a list that grows by one noise level for every call of the network, and one that
    gets the schedule as the run starts: samplers write into the one that they are given."""
    levels, schedule, model = [], [], model.clone()

    def count(executor, x, timestep, *args, **kwargs):
        levels.append(float(timestep.flatten()[0]) / 1000)
        return executor(x, timestep, *args, **kwargs)

    def look(executor, noise, latent, sampler, sigmas, *args, **kwargs):
        schedule.extend(sigmas.tolist())
        return executor(noise, latent, sampler, sigmas, *args, **kwargs)

    model.add_wrapper_with_key("diffusion_model", "count", count)
    model.add_wrapper_with_key("outer_sample", "look", look)
    return model, levels, schedule


def steady(pack, **settings):
    """A model whose plan can be worked out by hand, with its trace handle."""
    model = pack.wan().clone()
    model.model_options["transformer_options"]["motioncache_profile"] = Steady(0.06)
    return pack.patch(model, **{**PLAN, **settings})


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_without_reuse_nothing_changes_and_else_every_evaluation_is_decided_once(pack, sampler):
    bare, levels, schedule = counted(pack.wan())
    wanted = pack.sample(bare, steps=STEPS, sampler=sampler)
    zero, handle = pack.patch(pack.wan(), reuse_threshold=0.0)
    assert torch.equal(pack.sample(zero, steps=STEPS, sampler=sampler), wanted)
    assert "reuse_threshold is 0" in handle.latest.reason
    patched, handle = steady(pack)
    got = pack.sample(patched, steps=STEPS, sampler=sampler)
    trace = handle.latest
    assert bool(torch.isfinite(got).all())
    assert (got - wanted).norm() / wanted.norm() < 0.05
    assert [e.sigma for e in trace.evaluations] == pytest.approx(levels, abs=1e-6)
    assert [len(e.calls) for e in trace.evaluations] == [1] * len(levels)
    assert [e.kind for e in trace.evaluations] == [e.calls[0].kind for e in trace.evaluations]
    # by hand: three noise levels of warm-up, then every second one, then the last level
    last = min(level for level in schedule if level > 0) * (1 + 1e-4)
    assert marks(trace) == by_hand(levels, last)
    assert "." in marks(trace)
    assert "restart" not in {e.chunks[0].phase for e in trace.evaluations}


def by_hand(levels, last):
    """Marks of a run that moves by 0.06 an evaluation and computes at 0.1."""
    warm, travelled, out, before = 0, 0.0, "", None
    for level in levels:
        # a second look at one level is no step of the warm-up
        warm += level != before
        before = level
        if warm <= 3 or level <= last:
            travelled, mark = 0.0, "D"
        else:
            travelled += 0.06
            mark = "D" if travelled >= 0.1 else "."
            travelled = 0.0 if mark == "D" else travelled
        out += mark
    return out


def test_an_adaptive_sampler_reuses_and_ends(pack):
    wanted = pack.sample(pack.wan(), steps=STEPS, sampler=ADAPTIVE)
    zero, _ = pack.patch(pack.wan(), reuse_threshold=0.0)
    assert torch.equal(pack.sample(zero, steps=STEPS, sampler=ADAPTIVE), wanted)
    patched, handle = pack.patch(pack.wan())
    got = pack.sample(patched, steps=STEPS, sampler=ADAPTIVE)
    trace = handle.latest
    assert bool(torch.isfinite(got).all())
    assert (got - wanted).norm() / wanted.norm() < 0.05
    assert "." in marks(trace)
    assert all(len(e.calls) == 1 for e in trace.evaluations)
    assert {c.note for c in trace.calls()} == {""}


@pytest.fixture
def restarting(pack):
    """A sampler that goes down 8 levels, adds noise up to the fourth, and goes down to the end."""

    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None):
        levels = sigmas.tolist()
        rng = torch.Generator().manual_seed(9)
        rows = x.new_ones([x.shape[0]])
        walk = [*pairwise(levels[:9]), None, *pairwise(levels[4:])]
        for step in walk:
            if step is None:
                # flow: (1 - sigma) x0 + sigma noise, noisier
                low, high = levels[8], levels[4]
                keep = (1 - high) / (1 - low)
                extra = (high**2 - (keep * low) ** 2) ** 0.5
                x = keep * x + extra * torch.randn(x.shape, generator=rng)
                continue
            here, there = step
            denoised = model(x, here * rows, **(extra_args or {}))
            x = x + (there - here) * (x - denoised) / here
        return x

    return pack.host.samplers.KSAMPLER(sample)


def through(pack, model, sampler, steps=STEPS):
    guider = pack.host.guider(model, pack.host.text(1), pack.host.text(2))
    noise = pack.host.sample.prepare_noise(pack.host.latent(), 5)
    return guider.sample(noise, pack.host.latent(), sampler, pack.host.sigmas(model, steps), seed=5)


@pytest.mark.parametrize("forecast", [0.0, 0.75])
def test_noise_that_is_added_in_mid_run_makes_a_full_evaluation(pack, restarting, forecast):
    wanted = through(pack, pack.wan(), restarting)
    zero, _ = pack.patch(pack.wan(), reuse_threshold=0.0)
    assert torch.equal(through(pack, zero, restarting), wanted)
    patched, handle = steady(pack, forecast=forecast)
    got = through(pack, patched, restarting)
    trace = handle.latest
    # warm-up of 3, every second one; the ninth follows the noise; the last is protected
    assert marks(trace) == "DDD.D.D." + "D.D.D.D" + "D"
    phases = [e.chunks[0].phase for e in trace.evaluations]
    assert phases.index("restart") == 8
    assert phases.count("restart") == 1
    assert (got - wanted).norm() / wanted.norm() < 0.05


def test_a_rise_within_a_step_is_no_restart(pack):
    """Below the level that the step came from."""

    def wobbling(model, x, sigmas, extra_args=None, callback=None, disable=None):
        rows = x.new_ones([x.shape[0]])
        for here, there in pairwise(sigmas.tolist()):
            middle = here + 1.2 * (there - here) if there > 0 else here
            model(x, middle * rows, **(extra_args or {}))
            denoised = model(x, here * rows, **(extra_args or {}))
            x = x + (there - here) * (x - denoised) / here
        return x

    patched, handle = steady(pack)
    through(pack, patched, pack.host.samplers.KSAMPLER(wobbling))
    phases = [e.chunks[0].phase for e in handle.latest.evaluations]
    assert len(phases) == 2 * STEPS
    assert "uniform" in phases
    assert phases.count("restart") == 0
