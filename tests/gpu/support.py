"""What the GPU tests share: guarded memory, comparisons, and a watch on waiting for the device."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core.common import host_transfer as readback
from motioncache_pack.motioncache_core.engine.session import Session
from motioncache_pack.motioncache_core.policy import clip_decision as scope
from motioncache_pack.tests.core.runs import dictate, living_tensors
from motioncache_pack.tests.kernels.cases import Case
from torch import Tensor

# the tolerance of tests/kernels: relative RMS error
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-3, torch.float16: 1e-3}
# bytes on either side of a tensor; keeps it aligned
BAND = 2048


class Guarded:
    """Memory between bands that nothing may write to; new memory is poisoned until it is written.

    Floats, fp8 included, are poisoned with NaN, which spoils what is computed with it; integers
    with a number that is no row.
    """

    def __init__(self) -> None:
        self._buffers: list[tuple[Tensor, int]] = []

    def inside(self, tensor: Tensor) -> Tensor:
        """A copy between two bands."""
        return self._between_bands(tensor).copy_(tensor)

    @contextmanager
    def allocations(self) -> Iterator[None]:
        """What `empty` returns is poisoned and lies between bands."""
        patched = pytest.MonkeyPatch()
        for owner, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")):
            make = getattr(owner, name)

            def made(*args: Any, make: Callable[..., Tensor] = make, **named: Any) -> Tensor:
                return self._between_bands(make(*args, **named))

            patched.setattr(owner, name, made)
        try:
            yield
        finally:
            patched.undo()

    def check(self) -> None:
        """Fail if a band was written to."""
        for buffer, poison in self._buffers:
            for band in (buffer[:BAND], buffer[-BAND:]):
                assert bool((band == poison).all()), "memory beside a tensor was written to"
        self._buffers.clear()

    def _between_bands(self, like: Tensor) -> Tensor:
        poison = 0xFF if like.is_floating_point() else 0x7F
        # full() is not patched
        buffer = torch.full(
            (like.nbytes + 2 * BAND,), poison, dtype=torch.uint8, device=like.device
        )
        self._buffers.append((buffer, poison))
        return buffer[BAND : BAND + like.nbytes].view(like.dtype).view(like.shape)


def results(backend: str, case: Case, given: tuple[Any, ...]) -> list[Tensor]:
    """All results of one call, the arguments that it may have written included."""
    with kernels.use_backend(backend):
        answer = getattr(kernels, case.op)(*given, **case.named)
    answers = answer if isinstance(answer, tuple) else (answer,)
    return [value for value in (*answers, *given) if isinstance(value, Tensor)]


def guarded_results(backend: str, case: Case, given: tuple[Any, ...]) -> list[Tensor]:
    """`results`, with guard bands around everything and poison in new memory."""
    memory = Guarded()
    inside = tuple(memory.inside(v) if isinstance(v, Tensor) else v for v in given)
    with memory.allocations():
        found = results(backend, case, inside)
    memory.check()
    return found


def copied(given: tuple[Any, ...], device: str) -> tuple[Any, ...]:
    """Arguments of their own, on a device."""
    return tuple(v.to(device, copy=True) if isinstance(v, Tensor) else v for v in given)


def agree(expected: list[Tensor], actual: list[Tensor], where: str = "") -> None:
    """Integers and codes bit for bit, floats within the tolerance; no NaN passes."""
    assert len(expected) == len(actual), where
    for index, (left, right) in enumerate(zip(expected, actual, strict=True)):
        name = f"{where} tensor {index}".strip()
        assert left.shape == right.shape and left.dtype == right.dtype, name
        right = right.to(left.device)
        if left.dtype in TOLERANCE:
            scale = left.float().norm().clamp(min=1e-12)
            error = float((left.float() - right.float()).norm() / scale)
            assert error <= TOLERANCE[left.dtype], f"{name}: relative RMS error {error:.2e}"
        else:
            same(left, right, name)


def same(left: Tensor, right: Tensor, name: str) -> None:
    """Bit for bit."""
    pair = [t.reshape(-1).view(torch.uint8) for t in (left, right)]
    assert torch.equal(*pair), f"{name}: {int((pair[0] != pair[1]).sum())} bytes differ"


def held(device: str) -> int:
    """Bytes of tensors that live on the device."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    return sum(t.nbytes for t in living_tensors().values())


@contextmanager
def waiting(mode: str, device: str) -> Iterator[None]:
    """What happens where the host would wait for the device: "error", "warn" or "default"."""
    if device != "cuda":
        yield
        return
    names = ("default", "warn", "error")
    before = names[torch.cuda.get_sync_debug_mode()]
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def watch_reads(monkeypatch: pytest.MonkeyPatch, device: str) -> list[int]:
    """From now on an evaluation that waits for the device anywhere but in `readback.read` raises.

    Returns:
        how often each evaluation read, one entry each.
    """
    reads: list[int] = []
    original, evaluate = readback.read, Session.evaluate

    def read(numbers: Tensor) -> list[float]:
        reads[-1] += 1
        with waiting("default", device):
            return original(numbers)

    def watched(session: Session, call: Any) -> Tensor:
        reads.append(0)
        with waiting("error", device):
            return evaluate(session, call)

    importers = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("motioncache_pack.") and getattr(module, "read", None) is original
    ]
    # the module itself and those that took the function from it
    assert len(importers) > 1
    for module in importers:
        monkeypatch.setattr(module, "read", read)
    monkeypatch.setattr(Session, "evaluate", watched)
    return reads


def dictated(monkeypatch: pytest.MonkeyPatch, *decisions: Any) -> None:
    """`dictate`, with its masks on the device."""
    dictate(monkeypatch, *decisions)
    decide = scope.decide

    def there(settings: Any, state: Any, *args: Any, **named: Any) -> Any:
        decision = decide(settings, state, *args, **named)
        due = decision.due
        return decision if due is None else replace(decision, due=due.to(state.device))

    monkeypatch.setattr(scope, "decide", there)


def compiled_kernels() -> int:
    """Variants of the pack's Triton kernels that this process has compiled or loaded."""
    import triton

    package, count = kernels.triton.BACKEND.package, 0
    for op in kernels.triton.BACKEND.dtypes:
        for member in vars(importlib.import_module(f"{package}.{op}")).values():
            if isinstance(member, triton.runtime.JITFunction):
                count += sum(len(caches[0]) for caches in member.device_caches.values())
    return count
