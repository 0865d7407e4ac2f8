from __future__ import annotations

import logging
import sys
import types

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.kernels import (
    BackendUnavailableError,
    list_backends,
    registry,
    reuse_residual,
    use_backend,
)
from motioncache_pack.kernels.registry import Backend

X = torch.randn(1, 4, 3)
EXPECTED = X + X


@pytest.fixture
def add_backend(monkeypatch):
    """Puts a back end for reuse_residual before the others, and forgets it after the test."""
    monkeypatch.setattr(registry, "_backends", {})
    for name in ("_failures", "_parameters"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    monkeypatch.setattr(registry, "_logged", set())
    registry.implementation.cache_clear()

    def add(implementation, *, dtypes=None, reason=None):
        module = types.ModuleType("fast_kernels.reuse_residual")
        module.reuse_residual = implementation
        monkeypatch.setitem(sys.modules, "fast_kernels", types.ModuleType("fast_kernels"))
        monkeypatch.setitem(sys.modules, "fast_kernels.reuse_residual", module)
        backend = Backend(
            "fast",
            "fast_kernels",
            lambda device: reason,
            lambda: (reason is None, reason or "1"),
            {"reuse_residual": dtypes or {}},
        )
        registry.register(backend, (reuse_residual,))
        registry.register(kernels.reference.BACKEND, kernels.ops.OPS)

    yield add
    registry.implementation.cache_clear()


def failing(error):
    def implementation(x, residual, slope, gain):
        implementation.calls += 1
        raise error

    implementation.calls = 0
    return implementation


class PTXASError(Exception):
    """Named as Triton's error, which is matched by name."""


def test_automatic_choice_takes_the_first_that_can(add_backend, monkeypatch):
    monkeypatch.delenv(registry.ENVIRONMENT, raising=False)
    add_backend(lambda x, residual, slope, gain: "fast")
    assert reuse_residual(X, X) == "fast"
    with use_backend("reference"):
        assert torch.equal(reuse_residual(X, X), EXPECTED)
        with use_backend("auto"):
            assert reuse_residual(X, X) == "fast"
        assert torch.equal(reuse_residual(X, X), EXPECTED)


def test_the_environment_chooses_and_code_wins(add_backend, monkeypatch):
    add_backend(lambda x, residual, slope, gain: "fast")
    monkeypatch.setenv(registry.ENVIRONMENT, "reference")
    assert torch.equal(reuse_residual(X, X), EXPECTED)
    with use_backend("fast"):
        assert reuse_residual(X, X) == "fast"


def test_unknown_names_are_told(monkeypatch):
    known = r"no back end 'cuda'.*'auto', 'triton', 'reference'"
    with pytest.raises(ValueError, match=known), use_backend("cuda"):
        pass
    monkeypatch.setenv(registry.ENVIRONMENT, "torch")
    with pytest.raises(ValueError, match=f"{registry.ENVIRONMENT}: no back end 'torch'"):
        reuse_residual(X, X)


def test_forced_means_forced(monkeypatch):
    # without the interpreter Triton has no business with CPU tensors, installed or not
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with use_backend("triton"), pytest.raises(BackendUnavailableError) as caught:
        reuse_residual(X, X)
    assert set(caught.value.reasons) == {"triton", "reference"}
    assert caught.value.reasons["reference"] == "can run"
    assert caught.value.reasons["triton"] in str(caught.value)
    assert caught.value.requested == "triton" and caught.value.op == "reuse_residual"


def test_a_forced_back_end_refuses_a_dtype(add_backend):
    add_backend(lambda x, residual, slope, gain: "fast", dtypes={"x": frozenset({torch.float16})})
    with use_backend("fast"), pytest.raises(BackendUnavailableError, match=r"x is torch\.float32"):
        reuse_residual(X, X)


def test_automatic_choice_falls_back_and_says_so_once(add_backend, monkeypatch, caplog):
    monkeypatch.delenv(registry.ENVIRONMENT, raising=False)
    add_backend(lambda x, residual, slope, gain: "fast", reason="no such card")
    with caplog.at_level(logging.INFO, logger="motioncache.kernels"):
        for _ in range(3):
            assert torch.equal(reuse_residual(X, X), EXPECTED)
    assert [record.message for record in caplog.records] == [
        "reuse_residual: fast is not used: no such card"
    ]


@pytest.mark.parametrize(
    "error",
    [
        PTXASError("ptxas fatal: Value 'sm_999' is not defined"),
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
        RuntimeError("PassManager::run failed"),
        OSError("cannot load library"),
    ],
    ids=["ptxas", "no-compiler", "compiler-pass", "library"],
)
def test_a_kernel_that_cannot_be_compiled_is_tried_once(add_backend, monkeypatch, caplog, error):
    monkeypatch.delenv(registry.ENVIRONMENT, raising=False)
    implementation = failing(error)
    add_backend(implementation)
    with caplog.at_level(logging.WARNING, logger="motioncache.kernels"):
        for _ in range(3):
            assert torch.equal(reuse_residual(X, X), EXPECTED)
    assert implementation.calls == 1 and len(caplog.records) == 1
    assert str(error)[:20] in caplog.text
    with use_backend("fast"), pytest.raises(BackendUnavailableError):
        reuse_residual(X, X)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA error: an illegal memory access"), ValueError("a bug"), MemoryError()],
    ids=["cuda", "bug", "memory"],
)
@pytest.mark.parametrize("name", ["auto", "fast"])
def test_other_errors_are_never_swallowed(add_backend, monkeypatch, name, error):
    add_backend(failing(error))
    with use_backend(name), pytest.raises(type(error)):
        reuse_residual(X, X)


def test_a_compile_failure_of_a_forced_back_end_is_the_cause(add_backend):
    error = PTXASError("no")
    add_backend(failing(error))
    with use_backend("fast"), pytest.raises(BackendUnavailableError, match="PTXASError") as caught:
        reuse_residual(X, X)
    assert caught.value.__cause__ is error


def test_names_in_a_capability_are_checked():
    def backend(op, parameter):
        dtypes = {op: {parameter: frozenset({torch.float32})}}
        return Backend("typo", "typo", lambda device: None, lambda: (True, ""), dtypes)

    with pytest.raises(ValueError, match=r"no parameter \['X'\].*'x', 'residual', 'slope', 'gain'"):
        registry.register(backend("reuse_residual", "X"), (reuse_residual,))
    with pytest.raises(ValueError, match="unknown op 'reuse_residuals'"):
        registry.register(backend("reuse_residuals", "x"), (reuse_residual,))
    assert "typo" not in registry._backends


def test_a_cpu_is_given_to_the_reference(monkeypatch):
    monkeypatch.delenv(registry.ENVIRONMENT, raising=False)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(kernels.triton, "status", lambda: pytest.fail("Triton was looked for"))
    assert torch.equal(reuse_residual(X, X), EXPECTED)


def test_double_precision_runs_on_the_reference_alone():
    assert reuse_residual(X.double(), X.double()).dtype == torch.float64
    with use_backend("triton"), pytest.raises(BackendUnavailableError, match="float64"):
        reuse_residual(X.double(), X.double())


def test_list_backends():
    triton, reference = list_backends()
    assert (triton.name, reference.name) == ("triton", "reference")
    assert reference.available and reference.detail == f"torch {torch.__version__}"
    assert triton.detail and set(triton.ops) == set(reference.ops)
