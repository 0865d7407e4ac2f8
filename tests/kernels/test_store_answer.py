from __future__ import annotations

from itertools import product

import pytest
import torch
from motioncache_pack.kernels import reuse_answer, store_answer
from motioncache_pack.kernels.reference import pieces

pytestmark = pytest.mark.usefixtures("poisoned")

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
NAN = float("nan")
CASES = [
    ((), FP32, FP32, 1),
    ((1,), FP32, BF16, 4),
    ((63,), FP32, FP32, 2),
    ((1000,), FP16, FP16, 1),
    ((7, 9, 13), FP32, FP32, 4),
    ((2, 16, 3, 8, 11), FP32, FP16, 3),
    ((2, 3, 1024), BF16, FP32, 2),
]


def oracle(x, x0, answers, weights, own, sigma, slot):
    """Result and answers, in fp64; only what has a weight goes into the sum."""
    answer = (x.double() - x0.double()) / sigma
    total = own * answer if own != 0 else torch.zeros(x.shape, dtype=torch.float64)
    for k, weight in enumerate(weights):
        if weight != 0:
            total = total + weight * answers[k].double()
    after = answers.double()
    after[slot] = answer
    return x0.double() - sigma * total, after


@pytest.mark.parametrize(("shape", "dtype", "dtype0", "count"), CASES, ids=str)
def test_result_and_slot(backend, shape, dtype, dtype0, count, guarded, assert_close, assert_same):
    x, x0 = guarded(torch.randn(shape).to(dtype)), guarded(torch.randn(shape).to(dtype0))
    answers = guarded(torch.randn(count, *shape))
    kept = x.clone(), x0.clone()
    # 1 is a number that compilers like to know
    settings = [(0.7, torch.randn(count).tolist(), -0.6), (1.0, [1.0] * count, 1.0)]
    for slot, (sigma, weights, own) in product(range(count), settings):
        before = answers.clone()
        expected = oracle(x, x0, answers, weights, own, sigma, slot)
        actual = store_answer(x, x0, answers, weights, own, sigma, slot)
        assert actual.dtype == FP32 and actual.shape == x.shape and actual.is_contiguous()
        assert_close("y", expected[0], actual)
        assert_close("slot", expected[1][slot], answers[slot])
        for k in set(range(count)) - {slot}:
            assert_same(f"answer {k}", before[k], answers[k])
    assert torch.equal(kept[0], x) and torch.equal(kept[1], x0)


@pytest.mark.parametrize("length", [63, 1000])
def test_an_answer_of_weight_0_is_never_read(backend, length, assert_close):
    for step, known in enumerate(product((False, True), repeat=4)):
        x, x0, answers = torch.randn(length), torch.randn(length), torch.randn(4, length)
        weights, own, slot = torch.randn(4).tolist(), float(step % 3), step % 4
        for k in range(4):
            if not known[k]:
                answers[k], weights[k] = NAN, (-0.0 if k % 2 else 0.0)
        expected = oracle(x, x0, answers, weights, own, 0.3, slot)
        actual = store_answer(x, x0, answers, weights, own, 0.3, slot)
        assert_close(f"{known}", expected[0], actual)
        assert_close(f"{known}, slot", expected[1][slot], answers[slot])
        for k in {k for k in range(4) if not known[k]} - {slot}:
            assert bool(answers[k].isnan().all()), "another answer was written"


# numpy, in which the interpreter computes, warns of what overflows
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("dtype", "length"), [(FP32, 63), (FP16, 1000)], ids=str)
def test_without_weights_it_is_x0_and_a_new_tensor(backend, dtype, length, assert_same):
    x, x0 = torch.randn(length), torch.randn(length).to(dtype)
    # an answer that overflows
    x[3] = 3e38
    kept, answers = x0.clone(), torch.full((2, length), NAN)
    actual = store_answer(x, x0, answers, [0.0, 0.0], 0.0, 1e-2, 1)
    assert_same("y", x0.float(), actual)
    assert answers[1].isinf().nonzero().tolist() == [[3]]
    actual.fill_(7.0)
    assert torch.equal(kept, x0)


def test_the_stored_answer_leads_back_to_x0(backend, assert_close):
    x, x0, answers = torch.randn(3, 63), torch.randn(3, 63), torch.full((3, 3, 63), NAN)
    store_answer(x, x0, answers, [0.0] * 3, 0.0, 0.35, 1)
    assert_close("x0", x0, reuse_answer(x, answers, [0.0, 1.0, 0.0], 0.35))


def test_more_numbers_than_are_taken_at_a_time(backend, monkeypatch, assert_close):
    if backend == "reference":
        monkeypatch.setattr(pieces, "ON_CPU", 100)
    x, x0, answers = torch.randn(3, 1031), torch.randn(3, 1031).half(), torch.randn(3, 3, 1031)
    given = [0.5, -2.0, 0.1], 0.3, 0.4, 2
    expected = oracle(x, x0, answers, *given)
    assert_close("y", expected[0], store_answer(x, x0, answers, *given))
    assert_close("answers", expected[1], answers)


def test_nothing(backend):
    x, answers = torch.zeros(2, 0).half(), torch.zeros(1, 2, 0)
    actual = store_answer(x, x, answers, [1.0], 1.0, 1.0, 0)
    assert actual.shape == (2, 0) and actual.dtype == FP32


def test_bad_arguments_are_told(assert_refused):
    arguments = {
        "x": torch.zeros(4, 3),
        "x0": torch.zeros(4, 3),
        "answers": torch.zeros(2, 4, 3),
        "weights": [1.0, 2.0],
        "own": 0.5,
        "sigma": 0.5,
        "slot": 1,
    }
    assert_refused(
        store_answer,
        arguments,
        ({"x0": torch.zeros(4, 5)}, r"x0 has shape \[4, 5\]; it must be x's shape"),
        ({"x0": torch.zeros(4, 3).int()}, r"x0\.to\(torch\.float32\)"),
        ({"x0": torch.zeros(3, 4).t()}, r"x0\.contiguous\(\)"),
        ({"answers": torch.zeros(2, 4, 3).half()}, r"answers\.to\(torch\.float32\)"),
        ({"answers": torch.zeros(2, 3, 4).transpose(1, 2)}, "written in place"),
        ({"answers": torch.zeros(5, 4, 3)}, "the number of answers, is 5"),
        ({"weights": [1.0] * 3}, "3 weights are given for 2 answers"),
        ({"sigma": 0.0}, "sigma is 0.0; it must be above 0 and finite"),
        ({"sigma": -0.5}, "sigma is -0.5"),
        ({"sigma": NAN}, "sigma is nan"),
        ({"sigma": float("inf")}, "sigma is inf"),
        ({"slot": 2}, "slot is 2; choose a value from 0 to 1"),
        ({"slot": -1}, "slot is -1"),
    )
