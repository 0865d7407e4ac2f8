"""The published state machine: a trace worked out by hand, and its pseudo-code as an oracle."""

import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from motioncache_pack import kernels as ops
from motioncache_pack.motioncache_core.policy.chunk_state import ChunkState
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.runs import decide_at_once as decide

PAPER = MotionCacheSettings.preset("paper")
FRAMES, POSITIONS = 5, 4

# the weight of each position (a column) in each frame (a row): position 0 moves in all frames,
# 1 in three of five, 2 in two of five, 3 in none
MOVING = [
    [1.0, 1.0, 1.0, 0.6],
    [1.0, 1.0, 1.0, 0.6],
    [1.0, 1.0, 0.6, 0.6],
    [1.0, 0.6, 0.6, 0.6],
    [1.0, 0.6, 0.6, 0.6],
]
CALM = [[1.0, 0.6, 1.0, 0.6]] * 2 + [[1.0, 0.6, 0.6, 0.6]] * 3
ALIKE = [[1.0] * 4] * 5

# distance of an evaluation, what it does, what has accumulated afterwards
WARM_UP = [(None, "dense")] + [(0.2, "dense")] * 4
UNIFORM = [
    (0.04, "reuse", 0.04),
    (0.07, "dense", 0.0),  # 0.11, update 1
    (0.05, "reuse", 0.05),
    (0.04, "reuse", 0.09),
    (0.02, "dense", 0.0),  # 0.11, update 2
    (0.12, "dense", 0.0),  # update 3
    (0.15, "dense", 0.0),  # update 4
    (-0.02, "reuse", -0.02),  # the published polynomial is not clamped
    (0.11, "reuse", 0.09),
    (0.02, "dense", 0.0),  # 0.11, update 5
    (0.06, "reuse", 0.06),
    (0.06, "dense", 0.0),  # 0.12, update 6: the motion phase starts
]
# distance, weights, positions that are computed, what has accumulated afterwards in each frame
MOTION = [
    # 0.07 where the weight is 1, 0.042 where it is 0.6: nothing reaches 0.1
    (0.07, MOVING, (), [[0.07, 0.07, 0.07, 0.042]] * 2
                       + [[0.07, 0.07, 0.042, 0.042]]
                       + [[0.07, 0.042, 0.042, 0.042]] * 2),
    # position 1 is due in three of five frames and takes the others along; 2 in two and waits
    (0.05, MOVING, (0, 1), [[0.0, 0.0, 0.12, 0.072]] * 2 + [[0.0, 0.0, 0.072, 0.072]] * 3),
    (0.03, MOVING, (), [[0.03, 0.03, 0.15, 0.09]] * 2
                       + [[0.03, 0.03, 0.09, 0.09]]
                       + [[0.03, 0.018, 0.09, 0.09]] * 2),
    (0.02, MOVING, (2, 3), [[0.05, 0.05, 0.0, 0.0]] * 3 + [[0.05, 0.03, 0.0, 0.0]] * 2),
    # only position 0 is due: 5 of 20 is less than 0.4, so it is put off and keeps growing
    (0.06, CALM, (), [[0.11, 0.086, 0.06, 0.036]] * 2
                     + [[0.11, 0.086, 0.036, 0.036]]
                     + [[0.11, 0.066, 0.036, 0.036]] * 2),
    (0.05, CALM, (0, 1), [[0.0, 0.0, 0.11, 0.066]] * 2 + [[0.0, 0.0, 0.066, 0.066]] * 3),
    (0.09, ALIKE, (2, 3), [[0.09, 0.09, 0.0, 0.0]] * 5),
    (0.11, ALIKE, (0, 1, 2, 3), [[0.0] * 4] * 5),
    (0.01, ALIKE, (), [[0.01] * 4] * 5),
]  # fmt: skip


def test_the_published_trace_by_hand():
    state = ChunkState(slice(0, FRAMES * POSITIONS), FRAMES, torch.device("cpu"))
    for distance, kind in WARM_UP:
        decision = decide(PAPER, state, distance, ops)
        assert (decision.kind, decision.phase, decision.active) == (kind, "warm-up", 20)
    for i, (distance, kind, after) in enumerate(UNIFORM):
        decision = decide(PAPER, state, distance, ops)
        assert (decision.kind, decision.phase) == (kind, "uniform"), f"uniform {i}"
        assert state.accumulated == pytest.approx(after), f"uniform {i}"
    assert state.updates == 6
    for i, (distance, weights, positions, after) in enumerate(MOTION):
        state.weights = torch.tensor(weights).reshape(-1)
        decision = decide(PAPER, state, distance, ops)
        kind = {0: "reuse", POSITIONS: "dense"}.get(len(positions), "partial")
        assert (decision.kind, decision.phase) == (kind, "motion"), f"motion {i}"
        assert decision.active == FRAMES * len(positions), f"motion {i}"
        assert decision.distance == pytest.approx(distance)
        if kind == "partial":
            due = decision.due.reshape(FRAMES, POSITIONS).tolist()
            assert due == [[int(p in positions) for p in range(POSITIONS)]] * FRAMES, f"motion {i}"
        got = state.accumulator.tolist()
        assert got == pytest.approx([a for row in after for a in row], abs=1e-6), f"motion {i}"


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
    for i, ((distance, weights), (rows, acc)) in enumerate(zip(evaluations, wanted, strict=True)):
        state.weights = torch.tensor(weights)
        decision = decide(chosen, state, None if i == 0 else distance, ops)
        kind = "reuse" if not rows else "dense" if len(rows) == length else "partial"
        assert (decision.kind, decision.active) == (kind, len(rows)), f"evaluation {i}"
        if kind == "partial":
            assert set(decision.due.nonzero().view(-1).tolist()) == rows, f"evaluation {i}"
        if decision.phase == "motion":
            assert state.accumulator.tolist() == acc, f"evaluation {i}"
        elif decision.phase == "uniform":
            assert [state.accumulated] * length == acc, f"evaluation {i}"
