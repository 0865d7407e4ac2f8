"""The published state machine: its rules by hand, and its pseudo-code as an oracle."""

import dataclasses
import random
from fractions import Fraction

import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from motioncache_pack import kernels as ops
from motioncache_pack.motioncache_core.policy.chunk_state import ChunkState
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.runs import decide_at_once as decide
from motioncache_pack.tests.policy.chunks import PLAIN, rows, started


def test_tokens_become_due_one_by_one():
    state = started(PLAIN, [[1.0, 0.5, 0.75, 0.0]])
    seen = [rows(decide(PLAIN, state, 0.125, ops), 4) for _ in range(6)]
    # weights 1, 1/2, 3/4: every 2nd, 4th and 3rd evaluation; weight 0 never
    assert seen == [[], [0], [2], [0, 1], [], [0, 2]]


def test_the_vote_needs_a_strict_majority():
    settings = dataclasses.replace(PLAIN, agreement=0.5)
    for frames, most in ((4, 2), (5, 2), (1, 0), (2, 1)):
        for crossing, wanted in ((most, []), (most + 1, [2 * f for f in range(frames)])):
            moving = [[1.0, 0.0]] * crossing + [[0.0, 0.0]] * (frames - crossing)
            decision = decide(settings, started(settings, moving), 0.5, ops)
            assert rows(decision, 2 * frames) == wanted, (frames, crossing)


def test_a_vote_that_fails_leaves_the_crossed_tokens_growing():
    settings = dataclasses.replace(PLAIN, agreement=0.5)
    state = started(settings, [[1.0], [0.5]])
    assert decide(settings, state, 0.25, ops).kind == "reuse"
    assert state.accumulator.tolist() == [0.25, 0.125]
    assert decide(settings, state, 0.25, ops).kind == "dense"
    assert state.accumulator.tolist() == [0.0, 0.0]


def test_too_small_an_update_is_put_off_and_keeps_growing():
    settings = dataclasses.replace(PLAIN, min_update_ratio=0.5)
    state = started(settings, [[1.0, 0.5, 0.5, 0.5]])
    assert decide(settings, state, 0.25, ops).kind == "reuse"
    assert state.accumulator.tolist() == [0.25, 0.125, 0.125, 0.125]
    assert decide(settings, state, 0.25, ops).kind == "dense"
    # an update of just the ratio runs
    decision = decide(settings, started(settings, [[1.0, 1.0, 0.5, 0.5]]), 0.25, ops)
    assert rows(decision, 4) == [0, 1]


def test_reaching_the_threshold_is_enough():
    state = started(PLAIN, [[1.0]])
    assert decide(PLAIN, state, 0.249, ops).kind == "reuse"
    assert decide(PLAIN, started(PLAIN, [[1.0]]), 0.25, ops).kind == "dense"


def test_the_uniform_phase_ends_after_updates_not_steps():
    settings = dataclasses.replace(PLAIN, uniform_updates=2)
    state = started(settings, [[1.0]])
    phases = [decide(settings, state, 0.0625, ops).phase for _ in range(9)]
    # updates at the 4th and the 8th evaluation
    assert phases == ["uniform"] * 8 + ["motion"]


def published(parameters, evaluations):
    """The pseudo-code of the published policy, on plain lists; yields the set of computed rows.

    `evaluations` are a distance and the weights that the evaluation before left behind.
    """
    warm, updates, threshold, rho, ratio, frames, length = parameters
    positions = length // frames
    acc, done, second = [0.0] * length, 0, False
    for s, (distance, weights) in enumerate(evaluations):
        if s < warm:
            if s == warm - 1:
                acc, done, second = [0.0] * length, 0, updates == 0
            yield set(range(length)), list(acc)
            continue
        acc = [a + distance * (w if second else 1) for a, w in zip(acc, weights, strict=True)]
        marked = [a >= threshold for a in acc]
        if rho is not None:
            votes = [sum(marked[p::positions]) for p in range(positions)]
            marked = [votes[row % positions] / frames > rho for row in range(length)]
        share = Fraction(sum(marked), length)
        rows = {row for row in range(length) if marked[row]}
        if 0 < share < Fraction(ratio):
            rows = set()
        acc = [0.0 if row in rows else a for row, a in enumerate(acc)]
        if rows and not second:
            done += 1
            second = done >= updates
        yield rows, list(acc)


@st.composite
def scripts(draw):
    frames, positions = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    length = frames * positions
    parameters = (
        draw(st.integers(1, 4)),
        draw(st.integers(0, 4)),
        draw(st.sampled_from([1 / 64, 1 / 8, 1 / 4, 1 / 2])),
        draw(st.sampled_from([None, 0.25, 0.5, 0.6, 0.75])),
        draw(st.sampled_from([0.0, 0.25, 0.375, 0.5])),
        frames,
        length,
    )
    # multiples of powers of two: fp32 and the oracle's floats then agree exactly
    distances = draw(st.lists(st.integers(-4, 32), min_size=8, max_size=24))
    rng = random.Random(draw(st.integers(0, 2**32)))
    return parameters, [
        (d / 64, [rng.randint(8, 16) / 16 for _ in range(length)]) for d in distances
    ]


@hypothesis_settings(max_examples=150)
@given(scripts())
def test_decisions_are_those_of_the_published_pseudo_code(script):
    parameters, evaluations = script
    warm, updates, threshold, rho, ratio, frames, length = parameters
    chosen = MotionCacheSettings.preset(
        "paper",
        warmup_steps=warm,
        uniform_updates=updates,
        reuse_threshold=threshold,
        agreement=rho or 0.0,
        min_update_ratio=ratio,
    )
    state = ChunkState(slice(0, length), frames, torch.device("cpu"))
    wanted = published(parameters, evaluations)
    for i, ((distance, weights), (due, acc)) in enumerate(zip(evaluations, wanted, strict=True)):
        state.weights = torch.tensor(weights)
        decision = decide(chosen, state, None if i == 0 else distance, ops)
        kind = "reuse" if not due else "dense" if len(due) == length else "partial"
        assert (decision.kind, decision.active) == (kind, len(due)), f"evaluation {i}"
        if kind == "partial":
            assert set(decision.due.nonzero().view(-1).tolist()) == due, f"evaluation {i}"
        if decision.phase == "motion":
            assert state.accumulator.tolist() == acc, f"evaluation {i}"
        elif decision.phase == "uniform":
            assert [state.accumulated] * length == acc, f"evaluation {i}"
