from __future__ import annotations

import pytest
import torch
from motioncache_pack.kernels import scatter_residual

pytestmark = pytest.mark.usefixtures("poisoned")

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
CASES = [
    ((1, 1, 64), "all", FP32),
    ((2, 63, 60), "all", BF16),
    ((2, 63, 60), "none", FP32),
    ((2, 63, 60), "one", FP16),
    ((1, 130, 384), "third", FP16),
    ((1, 1000, 64), "third", FP32),
    ((2, 3, 1536), "third", BF16),
]


def some_inverse(lists, length, share):
    """Inverse lists of `count` random rows, in a random order of their places."""
    count = {"all": length, "none": 0, "one": 1, "third": -(-length // 3)}[share]
    inverse = torch.full((lists, length), -1, dtype=torch.int32)
    for i in range(lists):
        inverse[i, torch.randperm(length)[:count]] = torch.randperm(count).to(torch.int32)
    return inverse, count


def oracle(x, new, inverse, residual, slope=None, gain=None, inverse_interval=None):
    """Row after row, in fp32; the results are y, residual, slope."""
    y, r = torch.zeros_like(x), residual.clone()
    s = None if slope is None else slope.clone()
    for b in range(x.shape[0]):
        for i, j in enumerate(inverse[b if inverse.shape[0] > 1 else 0].tolist()):
            before = residual[b, i].float()
            if j < 0:
                total = x[b, i].float() + before
                if s is not None:
                    total = total + gain[i] * slope[b, i].float()
                y[b, i] = total.to(x.dtype)
                continue
            y[b, i] = new[b, j]
            learned = new[b, j].float() - x[b, i].float()
            r[b, i] = learned.to(r.dtype)
            if s is not None and inverse_interval[i] != 0:
                s[b, i] = ((learned - before) * inverse_interval[i]).to(s.dtype)
    return y, r, s


@pytest.mark.parametrize(("shape", "share", "dtype"), CASES, ids=str)
def test_scatter_residual(backend, dtype, shape, share, guarded, assert_same):
    inverse, count = some_inverse(1, shape[1], share)
    x, new = torch.randn(shape).to(dtype), torch.randn(shape[0], count, shape[2]).to(dtype)
    residual = guarded(torch.randn(shape).to(dtype))
    y, r, _ = oracle(x, new, inverse, residual)
    assert_same("y", y, scatter_residual(x, new, inverse, residual))
    assert_same("residual", r, residual)


@pytest.mark.parametrize(
    ("shape", "share", "lists", "dtype"),
    [
        ((2, 63, 60), "all", 1, FP16),
        ((2, 63, 60), "none", 1, BF16),
        ((2, 63, 60), "third", 2, FP32),
        ((2, 63, 60), "third", 1, BF16),
        ((2, 3, 1536), "one", 2, FP16),
    ],
    ids=str,
)
def test_forecast(backend, dtype, shape, share, lists, guarded, assert_close, assert_same):
    inverse, count = some_inverse(lists, shape[1], share)
    x, new = torch.randn(shape).to(dtype), torch.randn(2, count, shape[2]).to(dtype)
    residual, slope = (guarded(torch.randn(shape).to(dtype)) for _ in range(2))
    gain, rate = torch.randn(shape[1]), torch.randn(shape[1])
    rate[::3] = 0
    y, r, s = oracle(x, new, inverse, residual, slope, gain, rate)
    actual = scatter_residual(x, new, inverse, residual, slope, gain, rate)
    # a half may fall on the other side of a tie when the sum is contracted
    assert_close("y", y, actual, 1e-6 if dtype == torch.float32 else 1e-3)
    assert_same("residual", r, residual)
    assert_same("slope", s, slope)


def test_places_nobody_asks_for_are_not_read(backend):
    x, residual = torch.ones(1, 4, 64), torch.ones(1, 4, 64)
    new = torch.full((1, 3, 64), float("nan"))
    new[0, 0] = 5.0
    inverse = torch.tensor([[-1, 0, -1, -1]], dtype=torch.int32)
    y = scatter_residual(x, new, inverse, residual)
    assert y[0, :, 0].tolist() == [2.0, 5.0, 2.0, 2.0]
    assert residual[0, :, 0].tolist() == [1.0, 4.0, 1.0, 1.0]


def test_what_an_active_row_held_before_does_not_leak(backend):
    x, new = torch.ones(1, 2, 64), torch.full((1, 1, 64), 5.0)
    residual = torch.full((1, 2, 64), float("nan"))
    residual[0, 0] = 1.0
    inverse = torch.tensor([[-1, 0]], dtype=torch.int32)
    y = scatter_residual(x, new, inverse, residual)
    assert y[0, :, 0].tolist() == [2.0, 5.0] and residual[0, :, 0].tolist() == [1.0, 4.0]


def test_bad_arguments_are_told(assert_refused):
    arguments = {
        "x": torch.zeros(1, 4, 3),
        "new": torch.zeros(1, 2, 3),
        "inverse": torch.zeros(1, 4, dtype=torch.int32),
        "residual": torch.zeros(1, 4, 3),
    }
    assert_refused(
        scatter_residual,
        arguments,
        ({"new": torch.zeros(2, 2, 3)}, r"new has shape \[2, 2, 3\]"),
        ({"inverse": torch.zeros(1, 5, dtype=torch.int32)}, "of 4 entries"),
        ({"slope": torch.zeros(1, 4, 3)}, "gain, inverse_interval not given"),
        ({"residual": torch.zeros(1, 3, 4).transpose(1, 2)}, "written in place"),
    )
