"""MAGI-1's sampling node and MotionCache on it: attached to the model, seen in the trace."""

import importlib

import pytest
import torch
from motioncache_pack.motioncache_core import MotionCacheSettings, SettingsError
from motioncache_pack.motioncache_core.models.magi1.options import MagiOptions
from motioncache_pack.motioncache_core.report.motion_map import values
from motioncache_pack.motioncache_core.report.run_summary import RunSummary
from motioncache_pack.tests.engine.test_magi_policies import computed_rows
from motioncache_pack.tests.support import magi
from motioncache_pack.tests.support.assert_close import assert_same
from motioncache_pack.tests.support.magi_nodes import build, sampled


@pytest.fixture
def magi_run(pack):
    """`magi_run(case, preset or settings)`: latents and trace handle of a patched model."""

    def run(case, chosen, **changes):
        how = (chosen,) if isinstance(chosen, str) else ("balanced", chosen)
        model, handle = pack.execute("MotionCachePatcher", build(case), *how)
        return sampled(model, case, **changes), handle

    return run


@pytest.mark.parametrize("name", ["distill", "base_i2v"])
def test_the_published_latents_come_out(pack, name):
    case = magi.recorded(name)
    assert case.error(sampled(build(case), case)) <= magi.TOLERANCE


def test_the_patcher_runs_the_published_method(magi_run):
    case = magi.recorded("policy_slow")
    _, handle = magi_run(case, "paper")
    # the preset has the published script's thresholds
    assert computed_rows(handle.latest) == case.computed_rows.tolist()
    assert handle.latest.model == "MAGI-1"
    assert handle.latest.settings["reuse_threshold"] == 0.0065


def test_its_latents_are_the_published_ones(magi_run):
    case = magi.recorded("policy_slow")
    assert case.error(magi_run(case, "paper")[0]) <= 2e-6


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("distill", "fast"), ("distill", "motion"), ("distill", "balanced"), ("base", "balanced"),
        ("distill_v2v", "balanced"),
    ],
)  # fmt: skip
def test_the_patcher_runs_ours(pack, magi_run, name, preset):
    case = magi.recorded(name)
    whole = sampled(build(case), case, steps=32)
    latents, handle = magi_run(case, preset, steps=32)
    trace, budget = handle.latest, MotionCacheSettings.preset(preset).compute_budget
    share = RunSummary(trace).compute_share
    assert 0.35 < share < 0.6 if preset == "balanced" else abs(share - budget) < 0.1
    assert f"{round(32 * budget)} of each chunk's 32 steps are computed" in " ".join(trace.why)
    assert ("in the place of motion" in " ".join(trace.why)) == (preset == "motion")
    allowed = 0.3 if preset != "balanced" else 0.2 if case.distilled else 0.6
    assert 0 < float((latents - whole).norm() / whole.norm()) < allowed
    assert trace.answer_bytes > 0 and trace.kv_bytes > 0 and values(trace, "motion").max() == 1.0
    text, picture, _ = pack.execute("MotionCacheReport", handle, {})
    assert "MAGI-1" in text and picture.shape[0] == 1


@pytest.mark.parametrize("name", ["distill", "base_i2v", "distill_v2v"])
@pytest.mark.parametrize("settings", ["off", MotionCacheSettings(reuse_threshold=0.0)])
def test_off_is_bit_identical(magi_run, name, settings):
    case = magi.recorded(name)
    latents, handle = magi_run(case, settings)
    assert_same("latents", sampled(build(case), case), latents)
    assert handle.latest.reason


def test_few_steps_of_chunks_are_left_alone(magi_run):
    case = magi.recorded("distill")
    latents, handle = magi_run(case, "balanced")
    assert_same("latents", sampled(build(case), case), latents)
    assert "8 sampling steps" in handle.latest.reason


def test_the_model_that_was_patched_samples_as_if_it_never_had_been(pack):
    case = magi.recorded("distill")
    model = build(case)
    before = sampled(model, case, steps=16)
    patched, _ = pack.execute("MotionCachePatcher", model, "fast")
    changed = sampled(patched, case, steps=16)
    assert_same("latents", before, sampled(model, case, steps=16))
    assert not torch.equal(before, changed)
    detach = importlib.import_module("motioncache_pack.nodes.host.attach").detach
    assert_same("latents", before, sampled(detach(patched), case, steps=16))


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
