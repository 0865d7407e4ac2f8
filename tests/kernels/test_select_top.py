from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from motioncache_pack.kernels import compact_rows, select_top

pytestmark = pytest.mark.usefixtures("poisoned")

INF, NAN = math.inf, math.nan

SCORES = {
    "normal": lambda n: torch.randn(n),
    "few": lambda n: torch.randint(-2, 3, (n,)).float(),
    "equal": lambda n: torch.full((n,), -3.5),
    "bits": lambda n: torch.randint(0, 0x7F800000, (n,), dtype=torch.int32).view(torch.float32),
    # differ in the last digit of the key, and the one before it, only
    "close": lambda n: torch.randint(0x3F800000, 0x3F800200, (n,), dtype=torch.int32).view(
        torch.float32
    ),
    "special": lambda n: torch.tensor([0.0, -0.0, INF, -INF, NAN, 1e-45, -1e-45, 1.0])[
        torch.randint(0, 8, (n,))
    ],
}


def oracle(score, count):
    """Rows in the order of Python's stable sort."""

    def key(row):
        value = score[row].item()
        return (0, 0.0) if math.isnan(value) else (1, -value)

    best = sorted(range(len(score)), key=key)[: max(count, 0)]
    mask = torch.zeros(len(score), dtype=torch.uint8)
    mask[best] = 1
    return mask


def counted(count):
    return torch.tensor([count], dtype=torch.int32)


CASES = [
    (1, "special"),
    (63, "few"),
    (63, "special"),
    (2056, "equal"),
    (2056, "close"),
    (4099, "normal"),
    (4099, "bits"),
    (4099, "special"),
]


@pytest.mark.parametrize(("length", "kind"), CASES)
def test_select_top(backend, length, kind, guarded, assert_same):
    torch.manual_seed(length)
    score = guarded(SCORES[kind](length))
    before = score.clone()
    for count in {1, length // 3, length}:
        assert_same(f"{count} rows", oracle(score, count), select_top(score, counted(count)))
    assert score.view(torch.int32).equal(before.view(torch.int32))


def test_counts_are_clamped(backend):
    for count in (-(2**31), -1, 0, 2048, 2049, 2**31 - 1):
        mask = select_top(torch.randn(2048), counted(count))
        assert int(mask.sum()) == min(max(count, 0), 2048), count


def test_none_of_many_highest_keys(backend):
    assert not select_top(torch.full((70,), NAN), counted(0)).any()


def test_nan_is_highest_whatever_its_bits(backend):
    nans = torch.tensor([0x7F800001, 0x7FC00000], dtype=torch.int32).view(torch.float32)
    for sign in (1.0, -1.0):
        score = torch.tensor([INF, 0.0, 1.0, 2.0, -INF])
        score[2:4] = torch.copysign(nans, torch.tensor(sign))
        assert score[2:4].isnan().all()
        assert select_top(score, counted(1)).tolist() == [0, 0, 1, 0, 0], sign
        assert select_top(score, counted(3)).tolist() == [1, 0, 1, 1, 0], sign


def test_zeros_of_both_signs_are_equal(backend):
    score = torch.tensor([-1.0, -0.0, 0.0, -0.0, 0.0])
    assert select_top(score, counted(2)).tolist() == [0, 1, 1, 0, 0]


def test_denormals_keep_their_order(backend):
    score = torch.from_numpy(np.array([1, 3, 2, 0], dtype=np.int32).view(np.float32))
    assert select_top(score, counted(2)).tolist() == [0, 1, 1, 0]


def test_ties_are_resolved_across_programs(backend):
    # more programs than are counted at a time
    score = torch.zeros(70_000)
    score[69_999] = score[40_000] = 1.0
    mask = select_top(score, counted(66_002))
    assert bool(mask[:66_001].all()) and mask[66_001:].nonzero().tolist() == [[69_999 - 66_001]]


def test_the_mask_is_compacted_as_it_is(backend):
    rows, _, count = compact_rows(select_top(torch.tensor([3.0, 1.0, 2.0]), counted(2)))
    assert rows.tolist() == [0, 2, -1] and count.tolist() == [2]


def test_no_rows(backend):
    assert select_top(torch.zeros(0), counted(3)).shape == (0,)


def test_a_strided_score_is_read_in_its_own_order(backend):
    score = torch.tensor([[1.0, 9.0], [3.0, 9.0], [2.0, 9.0]])[:, 0]
    assert select_top(score, counted(1)).tolist() == [0, 1, 0]


def test_bad_arguments_are_told(assert_refused):
    assert_refused(
        select_top,
        {"score": torch.zeros(4), "count": counted(1)},
        ({"score": torch.zeros(2, 2)}, r"\[L\]"),
        ({"score": torch.zeros(4, dtype=torch.bfloat16)}, r"score\.to\(torch.float32\)"),
        ({"count": torch.tensor(1, dtype=torch.int32)}, r"count has shape \[\]"),
        ({"count": torch.tensor([1])}, r"count\.to\(torch.int32\)"),
    )
