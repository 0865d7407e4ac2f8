"""Fixtures of the GPU tests. They are skipped without a CUDA device.

`MOTIONCACHE_GPU_TESTS_ON_CPU=1` runs them at small sizes on the CPU, to find mistakes in the tests
themselves; the names of the tests then hold `cpu`, and their passing says nothing of a GPU.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator

import pytest
import torch
from motioncache_pack import kernels

DEVICE = "cpu" if os.environ.get("MOTIONCACHE_GPU_TESTS_ON_CPU") == "1" else "cuda"

if kernels.triton.interpreting():
    # the interpreter truncates to bf16, which these fixtures repair
    importlib.import_module("motioncache_pack.tests.kernels.conftest")


@pytest.fixture(params=[DEVICE])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device (MOTIONCACHE_GPU_TESTS_ON_CPU=1 tries the tests on a CPU)")
        if kernels.triton.interpreting():
            pytest.fail(
                "Triton's interpreter is on: unset TRITON_INTERPRET, MOTIONCACHE_TEST_TRITON"
            )
    return request.param


@pytest.fixture
def fast(device: str) -> Iterator[str]:
    """The back end under test, forced, so that the reference cannot stand in for it."""
    triton = device == "cuda" or kernels.triton.interpreting()
    name = "triton" if triton else "reference"
    with kernels.use_backend(name):
        yield name


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp32 is fp32: by default convolutions round it to TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def cpu_threads() -> Iterator[None]:
    """The reference on the CPU takes the cores that are there."""
    before = torch.get_num_threads()
    if DEVICE == "cuda":
        torch.set_num_threads(min(8, os.cpu_count() or 1))
    yield
    torch.set_num_threads(before)
