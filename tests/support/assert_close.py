"""One way to compare tensors: the error relative to the size of what was expected."""

from __future__ import annotations

import torch
from torch import Tensor

# fp32 sums in another order; one tolerance for all tests, locally and in CI
TOLERANCE = 1e-5


def relative_error(expected: Tensor, got: Tensor) -> float:
    """`max |got - expected| / rms(expected)`."""
    scale = expected.double().square().mean().sqrt().clamp_min(1e-12)
    return float((got.double() - expected.double()).abs().max() / scale)


def assert_close(name: str, expected: Tensor, got: Tensor, tolerance: float = TOLERANCE) -> None:
    """Fail unless shapes and dtypes agree and no element is further off than `tolerance`."""
    assert got.shape == expected.shape, f"{name}: shape {got.shape}, expected {expected.shape}"
    assert got.dtype == expected.dtype, f"{name}: {got.dtype}, expected {expected.dtype}"
    assert bool(torch.isfinite(got).all()), f"{name}: not all finite"
    error = relative_error(expected, got)
    assert error <= tolerance, f"{name}: relative error {error:.2e}, allowed {tolerance:.0e}"


def assert_same(name: str, expected: Tensor, got: Tensor) -> None:
    """Fail unless both are the same, bit for bit."""
    assert got.dtype == expected.dtype, f"{name}: {got.dtype}, expected {expected.dtype}"
    if not torch.equal(expected, got):
        raise AssertionError(f"{name}: not identical, error {relative_error(expected, got):.2e}")
