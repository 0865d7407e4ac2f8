from __future__ import annotations

import pytest
import torch
from motioncache_pack.kernels import store_residual
from motioncache_pack.kernels.reference import pieces

pytestmark = pytest.mark.usefixtures("poisoned")

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
CASES = [
    ((1, 1, 64), FP16),
    ((2, 63, 60), FP32),
    ((1, 130, 384), BF16),
    ((1, 1000, 64), FP32),
    ((2, 3, 1536), FP16),
]


def oracle(x, y, residual, slope=None, inverse_interval=None):
    learned = y.float() - x.float()
    if slope is not None:
        rate = inverse_interval[:, None]
        moved = ((learned - residual.float()) * rate).to(slope.dtype)
        slope = torch.where(rate == 0, slope, moved)
    return learned.to(residual.dtype), slope


@pytest.mark.parametrize(("shape", "dtype"), CASES, ids=str)
def test_difference(backend, dtype, shape, guarded, assert_same):
    x, y = (torch.randn(shape).to(dtype) for _ in range(2))
    residual = guarded(torch.full(shape, float("nan"), dtype=dtype))
    assert store_residual(x, y, residual) is None
    assert_same("residual", oracle(x, y, residual)[0], residual)


@pytest.mark.parametrize(
    ("shape", "dtype", "still"),
    [
        ((1, 1, 64), FP32, "none"),
        ((2, 63, 60), FP16, "some"),
        ((2, 63, 60), FP32, "all"),
        ((1, 130, 384), BF16, "none"),
        ((1, 1000, 64), FP32, "some"),
        ((2, 3, 1536), FP16, "all"),
        ((2, 3, 1536), BF16, "some"),
    ],
    ids=str,
)
def test_slope(backend, dtype, shape, still, guarded, assert_same):
    x, y = (torch.randn(shape).to(dtype) for _ in range(2))
    residual, slope = (guarded(torch.randn(shape).to(dtype)) for _ in range(2))
    rate = torch.randn(shape[1])
    rate[{"none": slice(0), "some": slice(0, None, 3), "all": slice(None)}[still]] = 0
    r, s = oracle(x, y, residual, slope, rate)
    store_residual(x, y, residual, slope, rate)
    assert_same("residual", r, residual)
    assert_same("slope", s, slope)


def test_more_numbers_than_are_taken_at_a_time(backend, monkeypatch, assert_same):
    if backend == "reference":
        monkeypatch.setattr(pieces, "ON_CPU", 1000)
    x, y, residual, slope = (torch.randn(2, 63, 60) for _ in range(4))
    # pieces that move, that do not, and one of both
    rate = torch.rand(63) + 0.5
    rate[20:41] = 0
    r, s = oracle(x, y, residual, slope, rate)
    store_residual(x, y, residual, slope, rate)
    assert_same("residual", r, residual)
    assert_same("slope", s, slope)


def test_what_is_unknown_does_not_leak_into_a_slope_at_rest(backend):
    x, y = torch.ones(1, 4, 64), torch.full((1, 4, 64), 3.0)
    residual, slope = torch.full((1, 4, 64), float("nan")), torch.full((1, 4, 64), 5.0)
    residual[0, 1] = 1.0
    store_residual(x, y, residual, slope, torch.tensor([0.0, 2.0, 0.0, 0.0]))
    assert slope[0, :, 0].tolist() == [5.0, 2.0, 5.0, 5.0]
    assert residual[0, :, 0].tolist() == [2.0] * 4


@pytest.mark.parametrize("forecast", [False, True])
def test_stores_of_another_dtype(backend, forecast, assert_same):
    x, y = (torch.randn(2, 63, 60).bfloat16() for _ in range(2))
    residual, slope = torch.randn(2, 63, 60), torch.randn(2, 63, 60).half()
    more = (slope, torch.randn(63)) if forecast else ()
    r, s = oracle(x, y, residual, *more)
    store_residual(x, y, residual, *more)
    # not rounded to the dtype of x on the way
    assert_same("residual", r, residual)
    if forecast:
        assert_same("slope", s, slope)


def test_one_batch_row_of_more(backend, assert_same):
    x, y, residual, slope = (torch.randn(3, 63, 60) for _ in range(4))
    rate = torch.randn(63)
    r, s = oracle(x[1:2], y[1:2], residual[1:2], slope[1:2], rate)
    kept = residual.clone(), slope.clone()
    store_residual(x[1:2], y[1:2], residual[1:2], slope[1:2], rate)
    for name, whole, part, before in (
        ("residual", residual, r, kept[0]),
        ("slope", slope, s, kept[1]),
    ):
        assert_same(name, torch.cat((before[:1], part, before[2:])), whole)


def test_bad_arguments_are_told(assert_refused):
    arguments = {name: torch.zeros(1, 4, 3) for name in ("x", "y", "residual")}
    assert_refused(
        store_residual,
        arguments,
        ({"y": torch.zeros(1, 4, 5)}, r"y has shape \[1, 4, 5\]"),
        ({"slope": torch.zeros(1, 4, 3)}, "inverse_interval not given"),
        ({"inverse_interval": torch.zeros(4)}, "slope not given"),
        ({"residual": torch.zeros(1, 3, 4).transpose(1, 2)}, "written in place"),
        ({"y": torch.zeros(1, 3, 4).transpose(1, 2)}, r"y\.contiguous\(\)"),
        ({"slope": torch.zeros(1, 4, 3), "inverse_interval": torch.zeros(3)}, r"\[L\] = \[4\]"),
    )
