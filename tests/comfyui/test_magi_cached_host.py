"""MotionCache on MAGI-1 in the real ComfyUI: attached to the model, seen in the trace."""

import importlib

import pytest
import torch
from motioncache_pack.motioncache_core import (
    MotionCacheSettings,
    RunSettings,
    TraceHandle,
)
from motioncache_pack.motioncache_core.report.motion_map import values
from motioncache_pack.motioncache_core.report.run_summary import RunSummary
from motioncache_pack.tests.comfyui.test_magi_host import build, sampled  # noqa: F401
from motioncache_pack.tests.engine.test_magi_policies import computed_rows
from motioncache_pack.tests.support import magi
from motioncache_pack.tests.support.assert_close import assert_same

pytestmark = [pytest.mark.comfy, pytest.mark.usefixtures("supported")]


@pytest.fixture
def cached(build):  # noqa: F811
    """`cached(case, preset or settings)`: latents and trace."""
    attach = importlib.import_module("motioncache_pack.nodes.host.attach")

    def run(case, chosen, **changes):
        handle = TraceHandle()
        if isinstance(chosen, str):
            chosen = RunSettings(MotionCacheSettings.preset(chosen), chosen)
        else:
            chosen = RunSettings(chosen)
        model = attach.attach(build(case), chosen, handle)
        latents = sampled(model, case, **changes)
        return latents, handle.latest

    return run


def test_paper_is_the_published_variant(cached):
    case = magi.recorded("policy_slow")
    latents, trace = cached(case, "paper")
    assert computed_rows(trace) == case.computed_rows.tolist()
    assert case.error(latents) <= 2e-6
    assert trace.model == "MAGI-1" and trace.settings["reuse_threshold"] == 0.0065


@pytest.mark.parametrize("name", ["distill", "base_i2v"])
@pytest.mark.parametrize("settings", ["off", MotionCacheSettings(reuse_threshold=0.0)])
def test_off_is_bit_identical(cached, build, name, settings):  # noqa: F811
    case = magi.recorded(name)
    latents, trace = cached(case, settings)
    assert_same("latents", sampled(build(case), case), latents)
    assert trace.reason


@pytest.mark.parametrize("name", ["distill", "base", "distill_v2v"])
def test_a_preset_computes_its_share(cached, build, name):  # noqa: F811
    case = magi.recorded(name)
    whole = sampled(build(case), case, steps=32)
    latents, trace = cached(case, "balanced", steps=32)
    share = RunSummary(trace).compute_share
    assert 0.35 < share < 0.6
    error = float((latents - whole).norm() / whole.norm())
    assert 0 < error < (0.2 if case.distilled else 0.6)
    assert values(trace, "motion").max() == 1.0
    assert "13 of each chunk's 32 steps are computed" in " ".join(trace.why)
    assert trace.answer_bytes > 0 and trace.kv_bytes > 0


def test_few_steps_are_left_alone(cached, build):  # noqa: F811
    case = magi.recorded("distill")
    latents, trace = cached(case, "balanced")
    assert_same("latents", sampled(build(case), case), latents)
    assert "8 sampling steps" in trace.reason


def test_nothing_is_left_behind(cached, build):  # noqa: F811
    """The model that was patched samples afterwards as if it never had been."""
    case = magi.recorded("distill")
    attach = importlib.import_module("motioncache_pack.nodes.host.attach")
    model, handle = build(case), TraceHandle()
    before = sampled(model, case, steps=16)
    patched = attach.attach(model, RunSettings(MotionCacheSettings.preset("fast"), "fast"), handle)
    changed = sampled(patched, case, steps=16)
    assert_same("latents", before, sampled(model, case, steps=16))
    assert not torch.equal(before, changed)
    assert_same("latents", before, sampled(attach.detach(patched), case, steps=16))
