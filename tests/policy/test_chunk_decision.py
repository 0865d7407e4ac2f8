"""Each rule of the policy on its own, on a chunk of a few tokens."""

import dataclasses

import pytest
import torch
from motioncache_pack import kernels as ops
from motioncache_pack.motioncache_core.common.token_layout import TokenLayout
from motioncache_pack.motioncache_core.policy.chunk_decision import row_multiple
from motioncache_pack.motioncache_core.policy.clip_decision import advance, prepare
from motioncache_pack.motioncache_core.policy.clip_state import ClipState
from motioncache_pack.motioncache_core.policy.run_context import RunContext
from motioncache_pack.motioncache_core.report.trace import Trace
from motioncache_pack.motioncache_core.report.trace_recorder import TraceRecorder
from motioncache_pack.motioncache_core.sampling.run_facts import RunFacts
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.runs import decide_at_once as decide
from motioncache_pack.tests.policy.chunks import PLAIN, chunk, rows, started


@pytest.mark.parametrize(
    ("phase", "weights", "distance"),
    [
        ({"agreement": 0.5, "min_update_ratio": 1.0}, [[0.0, 0.0], [0.0, 0.0]], 0.1),
        ({"uniform_updates": 100}, [[1.0]], 0.0),
    ],
)
def test_no_token_waits_longer_than_the_cap(phase, weights, distance):
    settings = dataclasses.replace(PLAIN, max_stale_steps=3, **phase)
    state = started(settings, weights)
    kinds = [decide(settings, state, distance, ops).kind for _ in range(9)]
    assert kinds == ["reuse", "reuse", "reuse", "dense"] * 2 + ["reuse"]


def test_without_a_cap_nothing_that_stands_still_is_computed():
    state = started(PLAIN, [[1.0]])
    assert {decide(PLAIN, state, 0.0, ops).kind for _ in range(50)} == {"reuse"}


@pytest.mark.parametrize(("phase", "uniform_updates"), [("last", 0), ("end", 100)])
def test_a_forced_evaluation_is_dense_and_starts_counting_anew(phase, uniform_updates):
    settings = dataclasses.replace(PLAIN, uniform_updates=uniform_updates, max_stale_steps=3)
    state = started(settings, [[1.0]])
    assert decide(settings, state, 0.2, ops).kind == "reuse"
    decision = decide(settings, state, 0.2, ops, forced=phase)
    assert (decision.kind, decision.phase, decision.active) == ("dense", phase, 1)
    # 0.2 + 0.06 would have been due, and so would have been the third wait
    assert decide(settings, state, 0.06, ops).kind == "reuse"
    assert [decide(settings, state, 0.0, ops).kind for _ in range(3)] == ["reuse"] * 2 + ["dense"]


def test_warm_up_counts_noise_levels_not_calls():
    settings = dataclasses.replace(PLAIN, warmup_steps=3)
    state = chunk()
    # a second-order sampler: levels 1, 2, 2, 3, 3, 4
    steps = [(None, False), (0.0, False), (0.0, True), (0.0, False), (0.0, True), (0.0, False)]
    phases = [decide(settings, state, d, ops, repeated=again).phase for d, again in steps]
    assert phases == ["warm-up"] * 5 + ["motion"]
    assert state.evaluations == 4


def test_a_repeated_level_still_adds_its_distance():
    state = started(PLAIN, [[1.0]])
    assert decide(PLAIN, state, 0.125, ops).kind == "reuse"
    assert decide(PLAIN, state, 0.125, ops, repeated=True).kind == "dense"


@pytest.mark.parametrize(
    ("policy", "keeps_keys"), [("chunk", True), ("step", True), ("motion", False)]
)
def test_without_decisions_for_tokens_the_uniform_phase_never_ends(policy, keeps_keys):
    settings = dataclasses.replace(PLAIN, policy=policy, uniform_updates=1)
    state = started(settings, [[1.0, 0.0]])
    decisions = [decide(settings, state, 0.125, ops, allow_partial=keeps_keys) for _ in range(8)]
    assert [d.kind for d in decisions] == ["reuse", "dense"] * 4
    assert {d.phase for d in decisions} == {"uniform"}


def test_without_a_map_all_tokens_weigh_one():
    state = started(PLAIN, [[0.0, 0.0]])
    state.weights = None
    assert [decide(PLAIN, state, 0.125, ops).kind for _ in range(2)] == ["reuse", "dense"]


def test_random_computes_as_many_tokens_as_motion_but_others():
    random = dataclasses.replace(PLAIN, policy="random", agreement=0.5)
    motion = dataclasses.replace(PLAIN, agreement=0.5)
    weights = torch.rand(1, 20, generator=torch.Generator().manual_seed(3)).repeat(3, 1).tolist()
    states = {s.policy: started(s, weights) for s in (random, motion)}
    alike = 0
    for _ in range(20):
        by_motion = decide(motion, states["motion"], 0.0625, ops)
        by_chance = decide(random, states["random"], 0.0625, ops)
        assert (by_chance.kind, by_chance.active) == (by_motion.kind, by_motion.active)
        if by_chance.kind != "partial":
            continue
        due = by_chance.due.reshape(3, 20)
        assert int(due.sum()) == by_chance.active
        assert bool((due == due[0]).all())
        alike += int(bool((by_chance.due == by_motion.due).all()))
    assert alike <= 1
    assert torch.equal(states["motion"].accumulator, states["random"].accumulator)


def test_random_is_the_same_in_every_run():
    settings = dataclasses.replace(PLAIN, policy="random")
    weights = [torch.linspace(0, 1, 16).tolist()]
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = started(settings, weights)
        runs.append([rows(decide(settings, state, 0.0625, ops), 16) for _ in range(8)])
    assert runs[0] == runs[1]


def advanced(scope, settings, distance, sigma, limits):
    """The decisions of an evaluation of a clip of one frame and one chunk."""
    levels = torch.tensor([sigma])
    context = RunContext(settings, ops, limits, TraceRecorder(Trace({}), limits))
    proposals = prepare(scope, context, [distance], levels)
    numbers = iter([float(n) for p in proposals for n in p.unread()])
    return advance(scope, context, proposals, numbers, (sigma,))


def test_the_schedule_forces_its_last_levels():
    limits = RunFacts(sigmas=[1.0, 0.1, 0.0], end_sigma=0.2)
    for dense_last, sigma, wanted in (
        (True, 0.1, "last"),
        (True, 0.05, "last"),
        (True, 0.2, "end"),
        (True, 0.21, "motion"),
        (False, 0.1, "end"),
    ):
        settings = dataclasses.replace(PLAIN, dense_last=dense_last)
        scope = ClipState.start("all", TokenLayout(1, 1, 2), torch.device("cpu"))
        advanced(scope, settings, None, 1.0, limits)
        decisions = advanced(scope, settings, 0.0, sigma, limits)
        assert [d.phase for d in decisions] == [wanted], sigma


def test_the_paper_preset_forces_no_last_evaluation():
    scope = ClipState.start("all", TokenLayout(1, 1, 2), torch.device("cpu"))
    limits = RunFacts(sigmas=[0.9, 0.01, 0.0])
    paper = MotionCacheSettings.preset("paper")
    levels = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.01]
    decisions = [advanced(scope, paper, 0.0, s, limits)[0] for s in levels]
    assert [d.kind for d in decisions] == ["dense"] * 5 + ["reuse"] * 2


def test_counts_are_rounded_to_a_small_share_of_the_tokens():
    found = [row_multiple(n) for n in (1, 63, 64, 768, 4095, 4096, 32760)]
    assert found == [1, 1, 2, 16, 64, 128, 128]


@pytest.mark.parametrize("agreement", [0.0, 0.5])
def test_the_next_most_due_rows_fill_the_count(agreement):
    frames, positions = 4, 64
    tokens = frames * positions
    settings = dataclasses.replace(PLAIN, agreement=agreement, reuse_threshold=0.5)
    weights = torch.rand(frames, positions, generator=torch.Generator().manual_seed(5))
    state = started(settings, weights.tolist())
    before = torch.zeros(tokens)
    partial = 0
    for _ in range(12):
        grown = before + 0.125 * weights.view(-1)
        crossed = grown >= 0.5
        if agreement:
            votes = crossed.view(frames, positions).sum(0)
            crossed = (votes > frames / 2).repeat(frames)
        decision = decide(settings, state, 0.125, ops)
        assert decision.active % row_multiple(tokens) == 0
        assert 0 <= decision.active - int(crossed.sum()) < row_multiple(tokens)
        due = torch.zeros(tokens, dtype=torch.bool)
        due[rows(decision, tokens)] = True
        # nothing that is due is left out, and no filler waited less than one that still waits
        assert bool((due | ~crossed).all())
        fillers = due & ~crossed
        if bool(fillers.any()) and not bool(due.all()):
            assert float(grown[fillers].min()) >= float(grown[~due].max())
            partial += 1
        assert bool((state.accumulator[due] == 0).all()) and bool((state.stale[due] == 0).all())
        assert torch.equal(state.accumulator[~due], grown[~due])
        before = state.accumulator.clone()
    assert partial >= 3
    # nothing due is not filled up
    state = started(PLAIN, torch.rand(4, 64).mul(0.5).tolist())
    assert decide(PLAIN, state, 0.125, ops).kind == "reuse"
