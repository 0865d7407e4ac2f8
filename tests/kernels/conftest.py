"""Fixtures of the kernel tests. `MOTIONCACHE_TEST_TRITON=1` adds Triton, through its interpreter,
which tests/conftest.py switches on."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from motioncache_pack.kernels import use_backend
from torch import Tensor

WANTED = os.environ.get("MOTIONCACHE_TEST_TRITON") == "1"
INSTALLED = importlib.util.find_spec("triton") is not None


def _round_to_nearest_even() -> None:
    """Make the interpreter round fp32 to bf16 as GPUs and torch do: it truncates (3.6 to 3.9)."""
    import numpy as np
    import triton.language as tl
    import triton.runtime.interpreter as interpreter

    convert = interpreter._convert_float

    def rounding(values, source, target, mode):
        if source == tl.float32 and target == tl.bfloat16:
            wide = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
            halves = wide.to(torch.bfloat16).view(torch.uint16)
            return halves.numpy().reshape(np.shape(values))
        return convert(values, source, target, mode)

    interpreter._convert_float = rounding


if WANTED and INSTALLED:
    _round_to_nearest_even()


@pytest.fixture(params=["reference", pytest.param("triton", marks=pytest.mark.triton)])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on each back end; forced, so that none stands in for the other."""
    if request.param == "triton" and not WANTED:
        pytest.skip("MOTIONCACHE_TEST_TRITON=1 is not set: Triton's interpreter is off")
    if request.param == "triton" and not INSTALLED:
        pytest.skip("Triton is not installed")
    with use_backend(request.param):
        yield request.param


def _poison(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point():
        return tensor.fill_(float("nan"))
    return tensor.fill_(77)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what `empty` returns, so that a result that is not written in full is seen."""
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")):
        make = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *args, make=make, **kwargs: _poison(make(*args, **kwargs))
        )


@pytest.fixture
def guarded() -> Iterator[Callable[[Tensor], Tensor]]:
    """Copies a tensor into the middle of a larger buffer; both ends must survive the test."""
    band = 256
    buffers: list[Tensor] = []

    def guard(tensor: Tensor) -> Tensor:
        buffer = torch.zeros(tensor.numel() + 2 * band, dtype=tensor.dtype)
        buffer[:band] = buffer[-band:] = 101
        inside = buffer[band:-band].view(tensor.shape)
        inside.copy_(tensor)
        buffers.append(buffer)
        return inside

    yield guard
    for buffer in buffers:
        assert bool((buffer[:band] == 101).all()) and bool((buffer[-band:] == 101).all())


@pytest.fixture
def assert_close() -> Callable[..., None]:
    """Relative RMS error, one tolerance everywhere; no NaN passes."""

    def check(name: str, expected: Tensor, actual: Tensor, tolerance: float = 1e-6) -> None:
        assert actual.shape == expected.shape, name
        assert bool(torch.isfinite(actual).all()), f"{name}: not finite"
        expected, actual = expected.double(), actual.double()
        scale = expected.square().mean().sqrt().clamp(min=1e-12)
        error = (actual - expected).square().mean().sqrt() / scale
        assert float(error) <= tolerance, f"{name}: relative RMS error {float(error):.2e}"

    return check


@pytest.fixture
def assert_same() -> Callable[[str, Tensor, Tensor], None]:
    def check(name: str, expected: Tensor, actual: Tensor) -> None:
        assert actual.dtype == expected.dtype and actual.shape == expected.shape, name
        assert torch.equal(actual, expected), f"{name}: {int((actual != expected).sum())} differ"

    return check


@pytest.fixture
def assert_refused() -> Callable[..., None]:
    """Bad arguments are told: good arguments of an op with one change each, and words of the
    message."""

    def check(
        op: Callable[..., Any], good: dict[str, Any], *cases: tuple[dict[str, Any], str]
    ) -> None:
        for change, told in cases:
            with pytest.raises(ValueError, match=told):
                op(**(good | change))
                pytest.fail(f"not refused, though it should be told: {told}")

    return check
