"""MAGI-1's sampling node and MotionCache on it, with the stand-in for ComfyUI."""

import importlib

import pytest
import torch
from motioncache_pack.motioncache_core import MotionCacheSettings, SettingsError
from motioncache_pack.motioncache_core.models.magi1.options import MagiOptions
from motioncache_pack.motioncache_core.report.run_summary import RunSummary
from motioncache_pack.tests.engine.test_magi_policies import computed_rows
from motioncache_pack.tests.support import magi
from motioncache_pack.tests.support.assert_close import assert_same

SCALE = 0.18215


@pytest.fixture
def build(pack):
    module = importlib.import_module("motioncache_pack.nodes.host.magi_model")
    return lambda case: module.build_magi(dict(case.weights), case.distilled, published=True)


@pytest.fixture
def sampled(pack):
    """`sampled(model, case)`: final latents in the published code's own units."""

    def run(model, case, **changes):
        options = case.options(**changes)
        values = {name: getattr(options, name) for name in MagiOptions.__slots__}
        rows = torch.cat((case.text["hq"], case.text["caption"]))[None]
        positive = [[rows, {"magi_durations": case.text["duration"]}]]
        node = pack.nodes["MotionCacheMagiSampling"]
        guider, sampler, sigmas = node.execute(model, positive, **values).result
        latent, mask = torch.zeros_like(case.noise), None
        if case.prefix is not None:
            latent[:, :, : case.given] = case.prefix / SCALE
            mask = torch.ones(1, 1, *case.noise.shape[2:])
            mask[:, :, : case.given] = 0
        out = guider.sample(
            case.noise, latent, sampler, sigmas, denoise_mask=mask, disable_pbar=True, seed=1
        )
        return out * SCALE

    return run


@pytest.mark.parametrize("name", ["distill", "base_i2v"])
def test_the_published_latents_come_out(build, sampled, name):
    case = magi.recorded(name)
    assert case.error(sampled(build(case), case)) <= magi.TOLERANCE


def test_the_patcher_runs_the_published_method(pack, build, sampled):
    case = magi.recorded("policy_fast")
    model, handle = pack.nodes["MotionCachePatcher"].execute(build(case), "paper").result
    sampled(model, case)
    found = computed_rows(handle.latest)
    slow = magi.recorded("policy_slow")
    # the preset has the published script's thresholds
    assert found == slow.computed_rows.tolist()


@pytest.mark.parametrize("preset", ["fast", "motion"])
def test_the_patcher_runs_ours(pack, build, sampled, preset):
    case = magi.recorded("distill")
    whole = sampled(build(case), case, steps=32)
    model, handle = pack.nodes["MotionCachePatcher"].execute(build(case), preset).result
    latents, trace = sampled(model, case, steps=32), handle.latest
    budget = MotionCacheSettings.preset(preset).compute_budget
    assert abs(RunSummary(trace).compute_share - budget) < 0.1
    assert f"{round(32 * budget)} of each chunk's 32 steps" in " ".join(trace.why)
    assert ("in the place of motion" in " ".join(trace.why)) == (preset == "motion")
    assert 0 < float((latents - whole).norm() / whole.norm()) < 0.3
    text, picture, _ = pack.nodes["MotionCacheReport"].execute(handle, {}).result
    assert "MAGI-1" in text and picture.shape[0] == 1


def test_off_is_bit_identical(pack, build, sampled):
    case = magi.recorded("distill_v2v")
    model, handle = pack.nodes["MotionCachePatcher"].execute(build(case), "off").result
    assert_same("latents", sampled(build(case), case), sampled(model, case))
    assert handle.latest.reason


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 6}, "use 4 or 8"),
        ({"window": 3}, "1, 2 and 4"),
        ({"twelve_steps": "both"}, "'early', 'late'"),
        ({"text_scale": -1.0}, "0 to 30"),
        ({"kv_keep": -1}, "kv_keep is -1; allowed are 0 to 1000"),
        ({"kv_keep": 1.5}, "kv_keep is 1.5; give a whole number from 0 to 1000"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, told):
    with pytest.raises(SettingsError, match=told):
        MagiOptions(**changes)
