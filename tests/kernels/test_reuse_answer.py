from __future__ import annotations

from itertools import product

import pytest
import torch
from motioncache_pack.kernels import reuse_answer
from motioncache_pack.kernels.reference import pieces

pytestmark = pytest.mark.usefixtures("poisoned")

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
NAN = float("nan")
CASES = [
    ((), FP32, 1),
    ((1,), BF16, 4),
    ((63,), FP32, 2),
    ((1000,), FP16, 1),
    ((7, 9, 13), FP32, 4),
    ((2, 16, 3, 8, 11), FP32, 3),
    ((2, 3, 1024), BF16, 2),
]


def oracle(x, answers, weights, sigma):
    """In fp64; NaN where an answer that has a weight is NaN."""
    read = [k for k, weight in enumerate(weights) if weight != 0]
    total = torch.zeros(x.shape, dtype=torch.float64)
    for k in read:
        total += weights[k] * answers[k].double()
    return x.double() - sigma * total


@pytest.mark.parametrize(("shape", "dtype", "count"), CASES, ids=str)
def test_sum(backend, shape, dtype, count, guarded, assert_close):
    x, answers = guarded(torch.randn(shape).to(dtype)), guarded(torch.randn(count, *shape))
    kept = x.clone(), answers.clone()
    # 1 is a number that compilers like to know
    for sigma, weights in ((0.7, torch.randn(count).tolist()), (1.0, [1.0] * count)):
        actual = reuse_answer(x, answers, weights, sigma)
        assert actual.dtype == FP32 and actual.shape == x.shape and actual.is_contiguous()
        assert_close("y", oracle(x, answers, weights, sigma), actual)
    assert torch.equal(kept[0], x) and torch.equal(kept[1], answers)


@pytest.mark.parametrize("length", [63, 1000])
def test_an_answer_of_weight_0_is_never_read(backend, length, assert_close):
    for known in product((False, True), repeat=4):
        x, answers = torch.randn(length), torch.randn(4, length)
        weights = torch.randn(4).tolist()
        for k in range(4):
            if not known[k]:
                answers[k], weights[k] = NAN, (-0.0 if k % 2 else 0.0)
        expected = oracle(x, answers, weights, 0.3)
        assert_close(f"{known}", expected, reuse_answer(x, answers, weights, 0.3))


@pytest.mark.parametrize("dtype", [FP32, FP16], ids=str)
def test_without_weights_it_is_x_and_a_new_tensor(backend, dtype, assert_same):
    x = torch.randn(3, 63).to(dtype)
    kept = x.clone()
    actual = reuse_answer(x, torch.full((2, 3, 63), NAN), [0.0, 0.0], 0.7)
    assert_same("y", x.float(), actual)
    actual.fill_(7.0)
    assert torch.equal(kept, x)


def test_an_answer_that_has_a_weight_is_read_whatever_it_is(backend):
    answers = torch.tensor([[1.0, NAN, 3.0]])
    actual = reuse_answer(torch.zeros(3), answers, [1e-3], 0.5)
    assert actual.isnan().tolist() == [False, True, False]


def test_numbers_that_are_no_floats(backend, assert_same):
    x, answers = torch.randn(63), torch.randn(2, 63)
    expected = reuse_answer(x, answers, [2.0, 1.0], 1.0)
    assert_same("y", expected, reuse_answer(x, answers, (2, True), 1))


def test_more_numbers_than_are_taken_at_a_time(backend, monkeypatch, assert_close):
    if backend == "reference":
        monkeypatch.setattr(pieces, "ON_CPU", 100)
    x, answers = torch.randn(3, 1031).bfloat16(), torch.randn(3, 3, 1031)
    weights = [0.5, -2.0, 0.1]
    assert_close("y", oracle(x, answers, weights, 0.4), reuse_answer(x, answers, weights, 0.4))


def test_nothing(backend):
    actual = reuse_answer(torch.zeros(2, 0).half(), torch.zeros(1, 2, 0), [1.0], 1.0)
    assert actual.shape == (2, 0) and actual.dtype == FP32


def test_bad_arguments_are_told(assert_refused):
    arguments = {
        "x": torch.zeros(4, 3),
        "answers": torch.zeros(2, 4, 3),
        "weights": [1.0, 2.0],
        "sigma": 0.5,
    }
    assert_refused(
        reuse_answer,
        arguments,
        ({"x": torch.zeros(4, 3).int()}, r"x\.to\(torch\.float32\)"),
        ({"x": torch.zeros(3, 4).t()}, r"x\.contiguous\(\)"),
        ({"answers": torch.zeros(4, 3)}, r"must be \[K, \*x\.shape\] = \['any', 4, 3\]"),
        ({"answers": torch.zeros(2, 3, 4)}, r"answers has shape \[2, 3, 4\]"),
        ({"answers": torch.zeros(5, 4, 3)}, "the number of answers, is 5; choose a value from 1"),
        ({"answers": torch.zeros(0, 4, 3)}, "the number of answers, is 0"),
        ({"answers": torch.zeros(2, 4, 3).half()}, r"answers\.to\(torch\.float32\)"),
        ({"answers": torch.zeros(2, 3, 4).transpose(1, 2)}, r"answers\.contiguous\(\)"),
        ({"weights": [1.0]}, "1 weights are given for 2 answers"),
    )
