"""The published state machine, with its pseudo-code as an oracle."""

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
