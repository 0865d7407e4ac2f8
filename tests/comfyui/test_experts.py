"""Wan 2.2 in ComfyUI: two experts that share a schedule, and the 5B model's noise per frame."""

import importlib
import json

import pytest
import torch
from motioncache_pack.motioncache_core import MotionCacheSettings
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.tests.core.runs import Steady
from motioncache_pack.tests.support.node_runs import MIXED, marks

pytestmark = pytest.mark.comfy

STEPS, BOUNDARY = 24, 12
# a distance of 0.06 an evaluation: every second one is due
PLAN = {**MIXED, "policy": "chunk", "reuse_threshold": 0.1, "warmup_steps": 3,
        "max_stale_steps": 0}  # fmt: skip


def steady(pack, seed, **settings):
    """An expert whose plan can be worked out by hand, with its trace handle."""
    model = pack.wan(seed).clone()
    model.model_options["transformer_options"]["motioncache_profile"] = Steady(0.06)
    return pack.patch(model, **{**PLAN, **settings})


@pytest.fixture
def advanced(host):
    """The KSamplerAdvanced node: `advanced(model, latent, start, end)`, noise at step 0 only."""
    node = importlib.import_module("nodes").KSamplerAdvanced()

    def sample(model, latent, start, end, steps=STEPS):
        first, last = start == 0, end >= steps
        return node.sample(
            model, "enable" if first else "disable", 7, steps, 5.0, "euler", "simple",
            host.text(1), host.text(2), {"samples": latent}, start, end,
            "disable" if last else "enable",
        )[0]["samples"]  # fmt: skip

    return sample


@pytest.fixture
def both(host, advanced):
    """`both(high, low)`: the latents after each of the two samplers."""

    def sample(high, low):
        leftover = advanced(high, host.latent(), 0, BOUNDARY)
        return leftover, advanced(low, leftover, BOUNDARY, STEPS)

    return sample


def error(got, wanted):
    return ((got - wanted).norm() / wanted.norm()).item()


def test_without_reuse_both_experts_are_as_without_the_node(pack, both):
    patched = [pack.patch(pack.wan(seed), reuse_threshold=0.0)[0] for seed in (0, 1)]
    for got, wanted in zip(both(*patched), both(pack.wan(0), pack.wan(1)), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize(
    "changes, high, low",
    [
        # three of warm-up, then every second one; only the low-noise expert's last is the video's
        ({}, "DDD.D.D.D.D.", "DDD.D.D.D.DD"),
        ({"warmup_steps": 1}, "D.D.D.D.D.D.", "D.D.D.D.D.DD"),
        # 74% of the whole schedule is step 17.8 of 24, the sixth step of the second half
        ({"end_percent": 0.74}, "DDD.D.D.D.D.", "DDD.D.DDDDDD"),
        # a quarter of it is in the first half
        ({"end_percent": 0.26}, "DDD.D.DDDDDD", "D" * 12),
        ({"dense_last": False}, "DDD.D.D.D.D.", "DDD.D.D.D.D."),
    ],
    ids=str,
)
def test_plans_of_both_experts_by_hand(pack, both, changes, high, low):
    models, handles = zip(*(steady(pack, seed, **changes) for seed in (0, 1)), strict=True)
    got = both(*models)
    assert [marks(h.latest) for h in handles] == [high, low]
    for mine, wanted in zip(got, both(pack.wan(0), pack.wan(1)), strict=True):
        assert error(mine, wanted) < 0.05


def test_the_second_expert_knows_nothing_of_the_first(pack, both, advanced, kept):
    (high, _), (low, handle) = pack.patch(pack.wan(0)), pack.patch(pack.wan(1))
    leftover, got = both(high, low)
    assert kept.refs
    assert kept.alive() == []
    fresh, other = pack.patch(pack.wan(1))
    assert torch.equal(got, advanced(fresh, leftover, BOUNDARY, STEPS))
    assert marks(handle.latest) == marks(other.latest)
    assert "." in marks(handle.latest) or "p" in marks(handle.latest)


def test_each_report_says_which_part_of_the_schedule_it_had(pack, both):
    models, handles = zip(*(steady(pack, seed) for seed in (0, 1)), strict=True)
    both(*models)
    sigma = pack.host.sigmas(pack.wan(), STEPS)[BOUNDARY].item()
    (high, _, data), (low, _, other) = (pack.execute("MotionCacheReport", h, {}) for h in handles)
    assert f"Schedule: 0% to 50% of the model's noise schedule (sigma 1.000 to {sigma:.3f})" in high
    assert "noise is left for another sampler" in high
    assert f"Schedule: 50% to 100% of the model's noise schedule (sigma {sigma:.3f} to 0.0" in low
    assert "noise is left" not in low
    parts = [json.loads(d)["schedule"] for d in (data, other)]
    assert [(p["start"], p["end"]) for p in parts] == [(0, 0.5), (0.5, 1)]
    assert parts[0]["last_sigma"] == parts[1]["first_sigma"] == pytest.approx(sigma, abs=1e-6)
    whole, handle = steady(pack, 0)
    pack.sample(whole)
    assert "Schedule" not in pack.execute("MotionCacheReport", handle, {})[0]


@pytest.mark.parametrize("steps, end, declined", [(20, 8, True), (20, 9, False)])
def test_an_expert_with_few_steps_is_left_alone(pack, host, advanced, steps, end, declined):
    patched, handle = pack.patch(pack.wan())
    got = advanced(patched, host.latent(), 0, end, steps)
    wanted = advanced(pack.wan(), host.latent(), 0, end, steps)
    trace = handle.latest
    assert torch.equal(got, wanted) is declined
    assert (f"{end} sampling steps" in trace.reason) is declined
    assert [f"{end} sampling steps" in r for r in trace.remarks] == [True] * (not declined)


@pytest.fixture
def swapping(host):
    """A guider that goes on with another model from a noise level on, in one run."""

    class Swapping(host.samplers.CFGGuider):
        def __init__(self, model, other, sigma):
            super().__init__(model)
            self.other, self.sigma = other, sigma

        def outer_sample(self, *args, **kwargs):
            host.model_management.load_models_gpu([self.other])
            self.other.pre_run()
            try:
                return super().outer_sample(*args, **kwargs)
            finally:
                self.other.cleanup()

        def predict_noise(self, x, timestep, model_options=None, seed=None):
            first = float(timestep[0]) > self.sigma
            return host.samplers.sampling_function(
                self.inner_model if first else self.other.model, x, timestep,
                self.conds["negative"], self.conds["positive"], self.cfg,
                model_options=model_options, seed=seed,
            )  # fmt: skip

    def sample(model, other):
        sigmas = host.sigmas(model, STEPS)
        guider = Swapping(model, other, (sigmas[BOUNDARY] * 1.0001).item())
        return guided(host, guider, sigmas)

    return sample


def guided(host, guider, sigmas):
    guider.set_conds(host.text(1), host.text(2))
    guider.set_cfg(5.0)
    noise = host.sample.prepare_noise(host.latent(), 7)
    return guider.sample(noise, host.latent(), host.samplers.ksampler("euler"), sigmas, seed=7)


def test_a_model_that_is_swapped_in_mid_run_starts_afresh(pack, swapping, kept):
    wanted = swapping(pack.wan(0), pack.wan(1))
    assert not torch.equal(wanted, swapping(pack.wan(0), pack.wan(0)))
    zero, _ = pack.patch(pack.wan(0), reuse_threshold=0.0)
    assert torch.equal(swapping(zero, pack.wan(1)), wanted)
    patched, handle = steady(pack, 0)
    got = swapping(patched, pack.wan(1))
    trace = handle.latest
    assert marks(trace) == "DDD.D.D.D.D." + "DDD.D.D.D.DD"
    assert [code_of(r) for r in trace.remarks] == ["in_vain", "network_changed"]
    assert "network changed" in pack.execute("MotionCacheReport", handle, {})[0]
    assert error(got, wanted) < 0.05
    # memory is that of one expert
    assert trace.residual_bytes == 2 * 48 * 128 * 4
    assert kept.alive() == []
    assert torch.equal(swapping(patched, pack.wan(1)), got)


def test_a_model_for_each_prompt_keeps_both(pack, host, kept):
    """The host's guider that runs the negative prompt on another model: no hand-over."""
    module = importlib.import_module("comfy_extras.nodes_custom_sampler")
    if not hasattr(module, "Guider_DualModel"):
        pytest.skip("this ComfyUI has no guider for two models")

    def sample(model):
        guider = module.Guider_DualModel(model, pack.wan(1))
        return guided(host, guider, host.sigmas(model, STEPS))

    wanted = sample(pack.wan(0))
    zero, _ = pack.patch(pack.wan(0), reuse_threshold=0.0)
    assert torch.equal(sample(zero), wanted)
    patched, handle = steady(pack, 0)
    got = sample(patched)
    trace = handle.latest
    assert [code_of(r) for r in trace.remarks] == ["in_vain"]
    assert marks(trace) == "DDD" + ".D" * 10 + "D"
    assert [len(e.calls) for e in trace.evaluations] == [2] * STEPS
    assert error(got, wanted) < 0.05
    assert kept.alive() == []


# Wan 2.2 5B: the given first frame has no noise


@pytest.mark.parametrize("given", [True, False])
def test_the_5b_model_with_a_given_first_frame(pack, host, given):
    five = pack.five_b(3)
    latent = torch.randn(1, 48, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(1, 1, 4, 8, 8)
    mask[:, :, 0] = 0.0
    seen = []

    def look(executor, x, timestep, *args, **kwargs):
        seen.append(timestep.clone())
        return executor(x, timestep, *args, **kwargs)

    def run(model):
        noise_mask = {"noise_mask": mask} if given else {}
        return host.run(model, host.text(1), host.text(2), latent=latent, steps=15, **noise_mask)

    bare = five.clone()
    bare.add_wrapper_with_key("diffusion_model", "look", look)
    wanted = run(bare)
    # the real path: a noise level per frame, none for the given one
    assert seen[0].shape == ((2, 4) if given else (2,))
    if given:
        assert all(bool((t[:, 0] == 0).all() and (t[:, 1:] > 0).all()) for t in seen)
    zero, _ = pack.patch(five, reuse_threshold=0.0)
    assert torch.equal(run(zero), wanted)
    dense, _ = pack.patch(five, warmup_steps=100)
    assert torch.equal(run(dense), wanted)
    patched, handle = pack.patch(five, kv_cache="gpu")
    got = run(patched)
    trace = handle.latest
    assert trace.grid == (4, 4, 4)
    assert {"D", "p", "."} <= set(marks(trace))
    assert {c.note for c in trace.calls()} == {""}
    levels = [float(t.max()) / 1000 for t in seen]
    assert [e.sigma for e in trace.evaluations] == pytest.approx(levels, abs=1e-6)
    assert 0 < error(got, wanted) < 0.02
    if given:
        assert torch.equal(got[:, :, 0], wanted[:, :, 0])


def test_one_settings_object_serves_both_experts(pack, both):
    settings = MotionCacheSettings(**PLAN)
    models, handles = zip(
        *(pack.execute("MotionCachePatcher", pack.wan(seed), "fast", settings) for seed in (0, 1)),
        strict=True,
    )
    both(*models)
    assert [h.latest.settings for h in handles] == [settings.as_dict()] * 2
    assert all(len(h.latest.evaluations) == BOUNDARY for h in handles)
