"""MotionCache on MAGI-1: the published decisions, and ours against them at equal work."""

import dataclasses
import json

import jsonschema
import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core import (
    MotionCacheSettings,
    RunFacts,
    RunSettings,
    Trace,
    settings_for_run,
)
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.motioncache_core.engine.chunks.answer_policy import AnswerPolicy
from motioncache_pack.motioncache_core.engine.chunks.phase_policy import PhasePolicy
from motioncache_pack.motioncache_core.engine.chunks.start import (
    PUBLISHED,
    chunk_session,
    settings_for_chunks,
)
from motioncache_pack.motioncache_core.models.magi1.passes import ChunkPasses
from motioncache_pack.motioncache_core.models.magi1.steps import ChunkSteps
from motioncache_pack.motioncache_core.policy.answer_plan import answer_plan
from motioncache_pack.motioncache_core.policy.chunk_phases import (
    ChunkPhases,
    PhaseRules,
)
from motioncache_pack.motioncache_core.report.motion_map import values
from motioncache_pack.motioncache_core.report.report_json import as_json
from motioncache_pack.motioncache_core.report.report_text import text
from motioncache_pack.motioncache_core.report.run_summary import RunSummary
from motioncache_pack.motioncache_core.report.timeline import cells
from motioncache_pack.motioncache_core.sampling.sampler_response import euler
from motioncache_pack.tests.support import magi
from motioncache_pack.tests.support.assert_close import assert_same

WORKING = ("unstarted", "done", "clean")
# 2 blocks, 3 chunks of 36 tokens, 64 steps in 4 stages of 16: 96 iterations
TOKENS, ITERATIONS = 36, 96


def rules_of(case):
    told = case.facts["policy"]
    return PhaseRules(
        told["chunk_threshold"],
        told["token_threshold"],
        told["warmup"],
        told["chunk_steps"],
        told["floor"],
    )


def by_phases(rules, published, tokens=TOKENS, iterations=ITERATIONS):
    return lambda call, steps: PhasePolicy(rules, steps, tokens, iterations, published)


def by_answers(**changes):
    def make(call, steps):
        settings = MotionCacheSettings.preset("balanced", **changes)
        plan = answer_plan(settings, RunFacts(sigmas=steps.sigmas), euler(steps.sigmas))
        return AnswerPolicy(plan, kernels)

    return make


def computed_rows(trace):
    """Rows of every chunk at work, iteration by iteration, as they were recorded."""
    rows = [[c.active for c in e.chunks if c.phase not in WORKING] for e in trace.evaluations]
    return [found + [-1] * (4 - len(found)) for found in rows]


def distance(a, b):
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def whole():
    """The recorded case with nothing reused, without clean looks and copies."""
    return magi.run(magi.recorded("policy_slow")).latents


@pytest.mark.parametrize("name", ["policy_slow", "policy_fast"])
def test_decisions_and_latents_are_the_published_ones(name):
    case = magi.recorded(name)
    run = magi.run(case, make_policy=by_phases(rules_of(case), published=True))
    assert computed_rows(run.trace) == case.computed_rows.tolist()
    assert case.error(run.latents) <= 1e-6
    kinds = {c.kind for e in run.trace.evaluations for c in e.chunks}
    assert kinds == {"dense", "partial", "reuse"}


def test_paper_is_those_rules():
    case = magi.recorded("policy_slow")
    chosen = settings_for_chunks(settings_for_run("paper", 64))
    assert chosen.settings == PUBLISHED
    facts = RunFacts(sigmas=ChunkSteps(case.options()).sigmas)
    made = []

    def make_policy(call, steps):
        session = chunk_session(chosen.settings, kernels, facts, Trace({}), published=True)
        made.append(session._make_policy(call, steps))
        return made[-1]

    run = magi.run(case, make_policy=make_policy)
    assert computed_rows(run.trace) == case.computed_rows.tolist()
    assert case.error(run.latents) <= 1e-6


def own_chunks(self, e):
    """Rows see what their own chunk may see."""
    return self._steps.first_seen(e.chunk, e.step), e.chunk


WRONG = {
    "no memory of tokens": (ChunkPhases, "_weigh", lambda self, s, c, w: None, 1e-3),
    "displacement of another step": (PhasePolicy, "_length", lambda self, step: 0.01, 1e-3),
    "own chunks": (ChunkPasses, "_sees", own_chunks, 1e-4),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_detail_is_seen(name, monkeypatch):
    case = magi.recorded("policy_slow")
    where, what, instead, least = WRONG[name]
    monkeypatch.setattr(where, what, instead)
    run = magi.run(case, make_policy=by_phases(rules_of(case), published=True))
    assert case.error(run.latents) > least


@pytest.mark.parametrize("threshold", [0.0065, 0.01])
def test_velocities_are_closer_than_displacements_at_equal_work(whole, threshold):
    case, rules = magi.recorded("policy_slow"), PhaseRules(threshold, threshold)
    theirs = magi.run(case, make_policy=by_phases(rules, published=True))
    ours = magi.run(case, make_policy=by_phases(rules, published=False))
    spent, ours_spent = (RunSummary(r.trace).compute_share for r in (theirs, ours))
    assert abs(spent - ours_spent) < 0.03
    assert distance(ours.latents, whole) < 0.5 * distance(theirs.latents, whole)


@pytest.mark.parametrize("name", ["policy_slow", "base"])
def test_a_threshold_of_0_is_bit_identical(name):
    case = magi.recorded(name)
    iterations = len(magi.run(case).calls)
    # a chunk that has not come any way is not reused either
    rules = PhaseRules(0.0, 0.0, chunk_steps=20 if case.distilled else None)
    policy = by_phases(rules, published=False, iterations=iterations)
    run = magi.run(case, make_policy=policy)
    assert_same("latents", magi.run(case).latents, run.latents)
    assert RunSummary(run.trace).compute_share == 1


def test_the_budget_that_is_asked_for_is_spent(whole):
    case = magi.recorded("policy_slow")
    errors = []
    for budget in (0.5, 0.4, 0.3):
        run = magi.run(case, make_policy=by_answers(compute_budget=budget))
        dense = [c.kind for e in run.trace.evaluations for c in e.chunks if c.phase not in WORKING]
        assert dense.count("dense") == 3 * round(64 * budget)
        assert dense.count("reuse") == 3 * 64 - dense.count("dense")
        errors.append(distance(run.latents, whole))
    assert errors == sorted(errors) and errors[-1] < 0.05


def test_ours_is_closer_than_the_published_method_with_no_more_work(whole):
    case = magi.recorded("policy_fast")
    theirs = magi.run(case, make_policy=by_phases(rules_of(case), published=True))
    spent = RunSummary(theirs.trace).compute_share
    ours = magi.run(case, make_policy=by_answers(compute_budget=int(64 * spent) / 64))
    assert RunSummary(ours.trace).compute_share <= spent
    assert distance(ours.latents, whole) < 0.5 * distance(theirs.latents, whole)


@pytest.mark.parametrize("kv_cache", ["auto", "gpu_fp8"])
def test_answers_are_foretold_over_keys_that_are_cut(kv_cache):
    """With the room of one finished chunk; closer than to the run that reads the others too."""
    case = magi.recorded("policy_slow")
    cut = magi.run(case, kv_keep=1, window=1, kv_cache=kv_cache).latents
    wide = magi.run(case, window=1, kv_cache=kv_cache).latents
    run = magi.run(
        case, make_policy=by_answers(compute_budget=0.5), kv_keep=1, window=1, kv_cache=kv_cache
    )
    assert RunSummary(run.trace).compute_share < 0.6
    assert 0 < distance(run.latents, cut) < 0.05
    assert distance(run.latents, cut) < distance(wide, cut)


@pytest.mark.parametrize("budget", [0.5, 0.4])
def test_hindsight_brings_it_closer(whole, budget):
    case = magi.recorded("policy_slow")
    with_it, without = (
        magi.run(case, make_policy=by_answers(compute_budget=budget, hindsight=hindsight))
        for hindsight in (True, False)
    )
    assert distance(with_it.latents, whole) < 0.9 * distance(without.latents, whole)


def test_guided_passes_of_the_base_model_are_one_answer():
    case = magi.recorded("base")
    whole = magi.run(case, steps=16)
    ours = magi.run(case, steps=16, make_policy=by_answers(compute_budget=0.5))
    summary = RunSummary(ours.trace)
    assert 0.45 < summary.compute_share < 0.65
    # a chunk that is not computed has none of its passes computed
    shares = {c.computed / c.needed for c in ours.trace.calls()}
    assert shares == {0.0, 1.0}
    assert distance(ours.latents, whole.latents) < 0.5


def test_partly_computed_chunks_are_seen_whole_where_a_copy_is_seen_alone():
    case = magi.recorded("policy_fast")
    rules = rules_of(case)
    run = magi.run(case, make_policy=by_phases(rules, published=True), near_clean=True)
    last = [
        (e.chunks[min(i for i, c in enumerate(e.chunks) if c.phase not in WORKING)], call[2])
        for e, call in zip(run.trace.evaluations, run.calls, strict=True)
    ]
    oldest = {chunk.kind for chunk, active in last if active[min(active)] >= 48}
    assert oldest <= {"dense", "reuse"} and "dense" in oldest


@pytest.mark.parametrize(
    ("chosen", "policy"),
    [
        (settings_for_run("balanced", 64), "answer"),
        (settings_for_run("motion", 64), "answer"),
        (RunSettings(MotionCacheSettings(policy="step")), "answer"),
        (RunSettings(MotionCacheSettings(policy="chunk", reuse_threshold=0.01)), "chunk"),
        (RunSettings(MotionCacheSettings(policy="motion", reuse_threshold=0.01)), "motion"),
        (settings_for_run("off", 64), "motion"),
    ],
)
def test_which_settings_a_run_goes_by(chosen, policy):
    found = settings_for_chunks(chosen)
    assert found.settings.policy == policy
    assert bool(set(found.why) - set(chosen.why)) == (found.settings != chosen.settings)


@pytest.mark.parametrize(("steps", "code"), [(8, "few_steps"), (64, "threshold_zero")])
def test_runs_that_reuse_nothing_say_why(steps, code):
    case = magi.recorded("distill")
    facts = RunFacts(sigmas=ChunkSteps(case.options(steps=steps)).sigmas)
    settings = MotionCacheSettings(reuse_threshold=0.1 if steps == 8 else 0.0)
    trace = Trace({})
    session = chunk_session(settings, kernels, facts, trace, published=False)
    assert code_of(trace.reason) == code
    assert session._make_policy(None, None) is None


def test_maps_show_what_was_weighed_and_computed():
    case = magi.recorded("policy_slow")
    run = magi.run(case, make_policy=by_phases(rules_of(case), published=True))
    run.trace.settings = PUBLISHED.as_dict()
    motion, active = values(run.trace, "motion"), values(run.trace, "active", 60)
    assert motion.shape == active.shape == (18, 2, 3)
    at_work = motion[12:]
    # a frame's least weight is the floor, its greatest 1: the whole scale of the map
    assert at_work.max() > 0.999 and at_work.min() < 0.001
    assert 0 < active.mean() < 1


@pytest.mark.parametrize("policy", [by_answers(), by_phases(PhaseRules(), published=True)])
def test_reports_are_valid_and_show_chunks(policy, root):
    run = magi.run(magi.recorded("policy_slow"), make_policy=policy)
    run.trace.settings, run.trace.preset = PUBLISHED.as_dict(), "paper"
    schema = json.loads((root / "motioncache_core/report/report.schema.json").read_text("utf-8"))
    jsonschema.validate(json.loads(as_json(run.trace)), schema)
    told = text(run.trace)
    assert "Model: MAGI-1, 2 blocks, 18x2x3 tokens in 3 chunk(s)" in told
    assert "chunk 2: " in told and "Block-causal" not in told
    assert {cell.row for cell in cells(run.trace)} == {0, 1, 2}


def test_flowcache_decides_by_chunks_alone():
    case = magi.recorded("policy_fast")
    rules = dataclasses.replace(rules_of(case), chunk_steps=None)
    run = magi.run(case, make_policy=by_phases(rules, published=True))
    kinds = {c.kind for e in run.trace.evaluations for c in e.chunks}
    assert kinds == {"dense", "reuse"}
    assert torch.isfinite(run.latents).all()
