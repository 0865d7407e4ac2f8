"""Back ends, what each of them can do (as data), and which one runs a call.

`MOTIONCACHE_BACKEND=auto|reference|triton` sets the choice for the process, `use_backend(name)` for
a block of code. Automatic choice may fall back to the reference; an explicit one runs or raises.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from .errors import BackendUnavailableError

logger = logging.getLogger("motioncache.kernels")

ENVIRONMENT = "MOTIONCACHE_BACKEND"
AUTO = "auto"

COMPILE_ERRORS = frozenset(
    {
        "CompilationError",
        "CompileTimeAssertionFailure",
        "OutOfResources",
        "PTXASError",
        "UnsupportedLanguageConstruct",
    }
)
COMPILE_WORDS = ("C compiler", "PassManager::run failed")


@dataclass(frozen=True)
class Backend:
    """A package that holds, for every op, a module and in it a function of the op's name.

    `probe(device)` answers why the back end cannot run there, or None. `dtypes` has its ops, and
    what each accepts, by parameter name; a name not listed is free. Automatic choice considers it
    on the device types in `automatic_on`; None means on all.
    """

    name: str
    package: str
    probe: Callable[[torch.device], str | None]
    describe: Callable[[], tuple[bool, str]]
    dtypes: Mapping[str, Mapping[str, frozenset[torch.dtype]]]
    automatic_on: frozenset[str] | None = None


@dataclass(frozen=True)
class BackendInfo:
    """One row of `list_backends()`: `detail` is a version, or the reason for being unavailable."""

    name: str
    available: bool
    detail: str
    ops: tuple[str, ...]


_backends: dict[str, Backend] = {}
_parameters: dict[str, tuple[str, ...]] = {}
_failures: dict[tuple[str, str, torch.device], str] = {}
_logged: set[tuple[str, str]] = set()
_chosen: ContextVar[str | None] = ContextVar("motioncache_backend", default=None)


def register(backend: Backend, ops: tuple[Callable[..., Any], ...]) -> None:
    """Add a back end; automatic choice tries them in the order in which they were registered."""
    signatures = {op.__name__: tuple(inspect.signature(op).parameters) for op in ops}
    for op, dtypes in backend.dtypes.items():
        if op not in signatures:
            raise ValueError(f"{backend.name}: unknown op '{op}'; the ops are {list(signatures)}")
        unknown = set(dtypes) - set(signatures[op])
        if unknown:
            raise ValueError(
                f"{backend.name}: {op} has no parameter {sorted(unknown)}; "
                f"its parameters are {list(signatures[op])}"
            )
    _parameters.update(signatures)
    _backends[backend.name] = backend


def list_backends() -> tuple[BackendInfo, ...]:
    """All back ends in the order of automatic choice."""
    return tuple(
        BackendInfo(backend.name, *backend.describe(), tuple(backend.dtypes))
        for backend in _backends.values()
    )


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the ops inside on back end `name`, or choose automatically with "auto"; wins over the
    environment."""
    token = _chosen.set(_known(name, "use_backend"))
    try:
        yield
    finally:
        _chosen.reset(token)


def dispatch(op: str, *arguments: Any) -> Any:
    """Run `op` on the chosen back end; the first argument is a tensor on the device to use."""
    name = _chosen.get() or _known(os.environ.get(ENVIRONMENT) or AUTO, ENVIRONMENT)
    if name != AUTO:
        return _run_chosen(name, op, arguments)
    device = arguments[0].device
    for backend in _backends.values():
        if backend.automatic_on is not None and device.type not in backend.automatic_on:
            continue
        reason = _refusal(backend, op, arguments)
        if reason is not None:
            _log_once(logging.INFO, op, f"{backend.name} is not used: {reason}")
            continue
        try:
            return implementation(backend.package, op)(*arguments)
        except Exception as error:
            reason = compile_failure(error)
            if reason is None:
                raise
            _failures[backend.name, op, device] = reason
            _log_once(logging.WARNING, op, f"{backend.name} is not used from now on: {reason}")
    raise BackendUnavailableError(op, AUTO, _reasons(op, arguments))


@functools.cache
def implementation(package: str, op: str) -> Callable[..., Any]:
    """The function of a back end's package that implements `op`, imported at first use."""
    function: Callable[..., Any] = getattr(importlib.import_module(f"{package}.{op}"), op)
    return function


def compile_failure(error: BaseException) -> str | None:
    """The reason, if `error` arose before a kernel was launched; None for all that may follow a
    launch."""
    text = f"{type(error).__name__}: {error}"
    if "CUDA error" in text or "HIP error" in text:
        return None
    named = any(base.__name__ in COMPILE_ERRORS for base in type(error).__mro__)
    tool = isinstance(error, (ImportError, OSError, subprocess.CalledProcessError))
    if named or tool or any(words in text for words in COMPILE_WORDS):
        return text.strip().splitlines()[0][:300]
    return None


def _known(name: str, source: str) -> str:
    if name != AUTO and name not in _backends:
        raise ValueError(f"{source}: no back end '{name}'; use one of {[AUTO, *_backends]}")
    return name


def _run_chosen(name: str, op: str, arguments: tuple[Any, ...]) -> Any:
    backend = _backends[name]
    if _refusal(backend, op, arguments) is not None:
        raise BackendUnavailableError(op, name, _reasons(op, arguments))
    try:
        return implementation(backend.package, op)(*arguments)
    except Exception as error:
        reason = compile_failure(error)
        if reason is None:
            raise
        raise BackendUnavailableError(op, name, _reasons(op, arguments) | {name: reason}) from error


def _refusal(backend: Backend, op: str, arguments: tuple[Any, ...]) -> str | None:
    dtypes = backend.dtypes.get(op)
    if dtypes is None:
        return f"has no {op}"
    device = arguments[0].device
    failed = _failures.get((backend.name, op, device))
    if failed is not None:
        return failed
    if dtypes:
        for name, value in zip(_parameters[op], arguments, strict=True):
            allowed = dtypes.get(name)
            if allowed is not None and value is not None and value.dtype not in allowed:
                return f"{name} is {value.dtype}, not one of {sorted(map(str, allowed))}"
    return backend.probe(device)


def _reasons(op: str, arguments: tuple[Any, ...]) -> dict[str, str]:
    return {
        name: _refusal(backend, op, arguments) or "can run" for name, backend in _backends.items()
    }


def _log_once(level: int, op: str, message: str) -> None:
    if (op, message) not in _logged:
        _logged.add((op, message))
        logger.log(level, "%s: %s", op, message)
