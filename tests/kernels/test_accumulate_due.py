from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from motioncache_pack.kernels import accumulate_due

pytestmark = pytest.mark.usefixtures("poisoned")

PAPER = {"threshold": 0.5, "agreement": 0.5, "min_update_ratio": 0.0, "max_stale_steps": 0}


def oracle(a, stale, distance, weight, frames, threshold, agreement, min_update_ratio, max_stale):
    """One token after the other, in numpy's fp32; shares as exact fractions."""
    length = len(a)
    tokens = length // frames
    for i in range(length):
        growth = distance if weight is None else np.float32(distance * weight[i])
        a[i] = np.float32(a[i] + growth)
    crossed = [bool(a[i] >= np.float32(threshold)) for i in range(length)]
    if agreement >= 0:
        for s in range(tokens):
            votes = sum(crossed[f * tokens + s] for f in range(frames))
            elected = votes / frames > agreement
            for f in range(frames):
                crossed[f * tokens + s] = elected
    if 0 < Fraction(sum(crossed), length) < Fraction(min_update_ratio):
        crossed = [False] * length
    due = [
        c or (max_stale > 0 and int(s) >= max_stale) for c, s in zip(crossed, stale, strict=True)
    ]
    for i in range(length):
        a[i] = np.float32(0) if due[i] else a[i]
        stale[i] = 0 if due[i] else stale[i] + 1
    return due


# agreement, smallest share, steps to starve, weighted
RULES = {
    "bare": (-1.0, 0.0, 0, False),
    "no vote": (-1.0, 0.4, 2, True),
    "paper": (0.5, 0.0, 0, True),
    "share": (0.5, 0.4, 0, True),
    "everything": (0.5, 0.4, 2, True),
    "starving": (0.3, 0.0, 3, False),
}
CASES = [
    (1, 1, "everything"),
    (1, 1030, "bare"),
    (1, 1030, "everything"),
    (3, 43, "paper"),
    (3, 43, "everything"),
    (2, 600, "starving"),
    (9, 72, "share"),
    (9, 72, "no vote"),
]


@pytest.mark.parametrize(("frames", "tokens", "rule"), CASES)
def test_two_steps(backend, frames, tokens, rule, guarded, assert_same):
    agreement, min_update_ratio, max_stale_steps, weighted = RULES[rule]
    length = frames * tokens
    accumulator = guarded(torch.rand(length) * 0.5)
    stale = guarded(torch.randint(0, 3, (length,), dtype=torch.int32))
    expected_a, expected_stale = accumulator.numpy().copy(), stale.numpy().copy()
    for step in range(2):
        distance = torch.rand(1 if step else ()) * 0.3
        weight = torch.rand(length) if weighted else None
        settings = (0.4, agreement, min_update_ratio, max_stale_steps)
        expected = oracle(
            expected_a,
            expected_stale,
            np.float32(distance.item()),
            None if weight is None else weight.numpy(),
            frames,
            *settings,
        )
        due, count = accumulate_due(
            accumulator,
            stale,
            distance,
            weight,
            frames=frames,
            threshold=settings[0],
            agreement=agreement,
            min_update_ratio=min_update_ratio,
            max_stale_steps=max_stale_steps,
        )
        assert_same("due", torch.tensor(expected, dtype=torch.uint8), due)
        assert_same("count", torch.tensor([sum(expected)], dtype=torch.int32), count)
        assert_same("accumulator", torch.from_numpy(expected_a), accumulator)
        assert_same("stale", torch.from_numpy(expected_stale), stale)


def run(accumulator, distance=0.0, **settings):
    a = torch.tensor(accumulator)
    stale = torch.zeros(len(accumulator), dtype=torch.int32)
    due, count = accumulate_due(a, stale, torch.tensor(distance), **settings)
    assert int(count) == int(due.sum())
    return due.tolist(), a.tolist(), stale.tolist()


def test_half_of_the_frames_is_not_more_than_half(backend):
    due, a, stale = run([1.0, 1.0, 1.0, 0.0], frames=2, **PAPER)
    assert due == [1, 0, 1, 0]
    assert a == [0.0, 1.0, 0.0, 0.0]
    assert stale == [0, 1, 0, 1]


def test_a_position_is_due_in_its_quiet_frames_too(backend):
    due, a, _ = run([1.0, 1.0, 0.25], frames=3, **PAPER)
    assert due == [1, 1, 1] and a == [0.0, 0.0, 0.0]


def test_exactly_the_threshold_crosses(backend):
    due, _, _ = run([0.25], distance=0.25, frames=1, **PAPER)
    assert due == [1]


def test_too_small_a_share_waits_and_grows(backend):
    for share, crosses in ((0.25, 1), (0.26, 0)):
        settings = PAPER | {"min_update_ratio": share}
        due, a, _ = run([1.0, 0.0, 0.0, 0.0], distance=0.125, frames=1, **settings)
        assert due == [crosses, 0, 0, 0]
        assert a[0] == (0.0 if crosses else 1.125)


def test_a_starved_token_is_due_alone(backend):
    accumulator, stale = torch.zeros(4), torch.tensor([0, 3, 2, 0], dtype=torch.int32)
    settings = PAPER | {"min_update_ratio": 0.9, "max_stale_steps": 3}
    due, count = accumulate_due(accumulator, stale, torch.tensor(0.125), frames=2, **settings)
    assert due.tolist() == [0, 1, 0, 0] and int(count) == 1
    assert stale.tolist() == [1, 0, 3, 1]
    assert accumulator.tolist() == [0.125, 0.0, 0.125, 0.125]


def test_a_starved_token_is_counted_beside_an_elected_position(backend):
    accumulator, stale = torch.tensor([1.0, 0, 1, 0]), torch.tensor([0, 3, 0, 2]).to(torch.int32)
    settings = PAPER | {"max_stale_steps": 3}
    due, count = accumulate_due(accumulator, stale, torch.tensor(0.125), frames=2, **settings)
    assert due.tolist() == [1, 1, 1, 0] and int(count) == 3
    assert stale.tolist() == [0, 0, 0, 3]


def test_bad_arguments_are_told(assert_refused):
    arguments = {
        "accumulator": torch.zeros(4),
        "stale": torch.zeros(4, dtype=torch.int32),
        "distance": torch.zeros(1),
        "frames": 2,
    }
    assert_refused(
        accumulate_due,
        arguments | PAPER,
        ({"frames": 3}, "frames is 3 for 4 tokens"),
        ({"agreement": 1.5}, "agreement is 1.5; choose a value from"),
        ({"min_update_ratio": -0.1}, "from 0.0 to 1.0"),
        ({"max_stale_steps": -1}, "max_stale_steps is -1"),
        ({"distance": torch.zeros(4)}, "one number"),
        ({"stale": torch.zeros(4, dtype=torch.int64)}, r"stale\.to\(torch.int32\)"),
        ({"accumulator": torch.zeros(8)[::2]}, "written in place"),
        ({"weight": torch.ones(3)}, r"weight has shape \[3\]"),
    )
