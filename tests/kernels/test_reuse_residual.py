from __future__ import annotations

import pytest
import torch
from motioncache_pack.kernels import reuse_residual

pytestmark = pytest.mark.usefixtures("poisoned")

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
CASES = [
    ((1, 1, 64), BF16),
    ((2, 63, 60), FP32),
    ((2, 63, 60), BF16),
    ((1, 130, 384), FP16),
    ((1, 1000, 64), FP32),
    ((2, 3, 1536), FP16),
]
cases = pytest.mark.parametrize(("shape", "dtype"), CASES, ids=str)


@cases
def test_sum_is_rounded_once(backend, dtype, shape, assert_same):
    x, residual = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    expected = (x.float() + residual.float()).to(dtype)
    assert_same("y", expected, reuse_residual(x, residual))


@cases
def test_forecast(backend, dtype, shape, assert_close):
    x, residual, slope = (torch.randn(shape).to(dtype) for _ in range(3))
    gain = torch.randn(shape[1])
    expected = x.double() + residual.double() + gain.double()[:, None] * slope.double()
    actual = reuse_residual(x, residual, slope, gain)
    assert actual.dtype == dtype
    # a half may fall on the other side of a tie when the sum is contracted
    exact = dtype == torch.float32
    assert_close("y", expected if exact else expected.to(dtype), actual, 1e-6 if exact else 1e-3)


def test_no_gain_is_no_forecast(backend):
    x, residual, slope = (torch.randn(1, 63, 60) for _ in range(3))
    actual = reuse_residual(x, residual, slope, torch.zeros(63))
    assert torch.equal(actual, reuse_residual(x, residual))


def test_a_half_residual_of_a_wide_input(backend, assert_same):
    x, residual = torch.randn(1, 63, 60), torch.randn(1, 63, 60).bfloat16()
    assert_same("y", x + residual.float(), reuse_residual(x, residual))


def test_the_result_is_a_new_tensor(backend):
    x = torch.randn(1, 3, 64)
    kept = x.clone()
    reuse_residual(x, torch.zeros_like(x)).fill_(7.0)
    assert torch.equal(x, kept)


def test_bad_arguments_are_told(assert_refused):
    arguments = {"x": torch.zeros(1, 4, 3), "residual": torch.zeros(1, 4, 3)}
    assert_refused(
        reuse_residual,
        arguments,
        ({"residual": torch.zeros(1, 4, 5)}, r"residual has shape \[1, 4, 5\]"),
        ({"slope": torch.zeros(1, 4, 3)}, "gain not given; slope, gain belong together"),
        ({"slope": torch.zeros(1, 4, 3), "gain": torch.zeros(3)}, r"\[L\] = \[4\]"),
        ({"x": torch.zeros(1, 3, 4).transpose(1, 2)}, r"x\.contiguous\(\)"),
    )
