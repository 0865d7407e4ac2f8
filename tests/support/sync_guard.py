"""Finds what makes the host wait for a GPU, on a machine that has none.

    guard = SyncGuard(reads=1)
    with guard:
        session.evaluate(...)         # on tensors of `on_device`, weights of `module_on_device`

A tensor of `on_device` says that it is on `cuda:0`, while its numbers are on the CPU: unlike with
torch's fake tensors, code that reads a number gets the right one and goes on as it would. Every
torch op inside the guard is looked at before it runs. One that would make the host wait raises
`HostWaitError`, unless it is a read that is allowed. An op of `kernels` is one op: what its back
end does is not looked at, unless the test calls the back end's function itself.

Not seen: `torch.cuda` calls, such as `synchronize`, which raise by themselves where CUDA is absent.
Rules: CUDA's "API synchronization behavior" for copies, torch's op tags for results whose value
or shape the host has to know.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from motioncache_pack.tests.support.device_tensor import (
    DEVICE,
    DeviceTensor,
    module_on_device,
    on_device,
    on_host,
)
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

__all__ = [
    "DEVICE",
    "DeviceTensor",
    "HostWaitError",
    "SyncGuard",
    "Wait",
    "module_on_device",
    "on_device",
    "on_host",
]

ROOT = Path(__file__).resolve().parents[2]
OWN = {Path(__file__).name, "device_tensor.py"}
CPU = torch.device("cpu")
FRAMES = 4

READ, UPLOAD, SHAPE = "read", "upload", "shape"
# a list or a Python number as an index or a value of these is a tensor of the host
INDEXED = {"aten::index", "aten::_unsafe_index", "aten::index_put", "aten::index_put_"}
READS = {"aten::histc", "aten::_linalg_check_errors"}


class HostWaitError(AssertionError):
    """The host would wait for the device."""


@dataclass(frozen=True)
class Wait:
    """One wait.

    Attributes:
        kind: "read" of numbers, "upload" of numbers, or "shape": one that depends on numbers.
        where: our frames, the innermost first: file, line, function and source.
    """

    kind: str
    op: str
    why: str
    where: tuple[tuple[str, int, str, str], ...]

    def __str__(self) -> str:
        frames = "".join(f"\n    {f}:{n} in {name}: {text}" for f, n, name, text in self.where)
        return f"{self.op} makes the host wait for the device: {self.why}{frames}"


class SyncGuard:
    """See the module's first lines. May be entered again; counts go on.

    Args:
        reads: device-to-host reads that are allowed; None allows, and lists, every wait.

    Attributes:
        waits: everything the host waited for, the reads that were allowed included.
        ops: how many torch ops were looked at.
    """

    def __init__(self, reads: int | None = 0) -> None:
        self.reads = reads
        self.waits: list[Wait] = []
        self.ops = 0
        # kept alive, so that no address is used twice
        self._pinned: list[torch.UntypedStorage] = []
        self._stack: list[ExitStack] = []

    def __enter__(self) -> SyncGuard:
        stack = ExitStack()
        # never sees an op: while it is on, torch does not try to start CUDA
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_Mode(self))
        self._stack.append(stack)
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.pop().__exit__(*raised)

    @property
    def count(self) -> int:
        """Reads so far."""
        return sum(wait.kind == READ for wait in self.waits)

    def report(self, kind: str, op: str, why: str) -> None:
        """The host is about to wait.

        Raises:
            HostWaitError: it may not.
        """
        wait = Wait(kind, op, why, _our_frames())
        self.waits.append(wait)
        if self.reads is None or (kind == READ and self.count <= self.reads):
            return
        if kind == READ and self.reads:
            raise HostWaitError(f"read {self.count} of {self.reads} allowed: {wait}")
        raise HostWaitError(str(wait))

    def pin(self, x: Tensor) -> Tensor:
        """`x`, known as a tensor in pinned memory from now on."""
        self._pinned.append(x.untyped_storage())
        return x

    def is_pinned(self, x: Tensor) -> bool:
        """Whether copies of `x` need not wait."""
        address = x.untyped_storage().data_ptr()
        return any(storage.data_ptr() == address for storage in self._pinned)


class _Mode(TorchDispatchMode):
    """Looks at every op, then runs it on the CPU."""

    def __init__(self, guard: SyncGuard) -> None:
        super().__init__()
        self._guard = guard

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        guard, name = self._guard, func._schema.name
        kwargs = dict(kwargs or {})
        guard.ops += 1
        found: list[Tensor] = []

        def to_host(x: Tensor) -> Tensor:
            found.append(x)
            return on_host(x)

        arguments, options = _changed(args, to_host), _changed(kwargs, to_host)
        devices = [t for t in found if isinstance(t, DeviceTensor)]
        on = bool(devices)
        target = kwargs.get("device")
        if target is not None:
            on = target.type != "cpu"
        pin = bool(kwargs.get("pin_memory")) or name == "aten::_pin_memory"

        if name == "aten::is_pinned":
            return not devices and guard.is_pinned(args[0])
        if name in ("aten::_to_copy", "aten::copy_"):
            pin = _check_copy(guard, name, args, kwargs, on) or pin
        elif devices:
            hosts = [t for t in found if not isinstance(t, DeviceTensor)]
            _check_op(guard, func, name, args, kwargs, hosts)
        with _disable_current_modes():
            if name == "aten::_pin_memory":
                return guard.pin(args[0].clone())
            options.pop("pin_memory", None)
            if target is not None:
                options["device"] = CPU
            out = func(*arguments, **options)
        if on:
            # what an op writes into comes back as it was given
            known = {id(t.host): t for t in devices}
            return _changed(out, lambda t: known[id(t)] if id(t) in known else DeviceTensor(t))
        return guard.pin(out) if pin and isinstance(out, Tensor) else out


def _changed(given: Any, change: Callable[[Tensor], Any]) -> Any:
    """`given` with its tensors changed; torch's own function for this takes most of the time."""
    if isinstance(given, Tensor):
        return change(given)
    if isinstance(given, (list, tuple)):
        return type(given)([_changed(part, change) for part in given])
    if isinstance(given, dict):
        return {name: _changed(part, change) for name, part in given.items()}
    return given


def _check_copy(
    guard: SyncGuard, name: str, args: Any, kwargs: dict[str, Any], to_device: bool
) -> bool:
    """Reports a copy that waits; whether its result is in pinned memory."""
    given = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
    if name == "aten::copy_":
        target, source = args[:2]
        to_device = isinstance(target, DeviceTensor)
    else:
        target, source = None, args[0]
    from_device = isinstance(source, DeviceTensor)
    if from_device == to_device:
        return False
    if from_device:
        # torch itself makes the result of a non-blocking `.to("cpu")` in pinned memory
        if given and (target is None or guard.is_pinned(target)):
            return target is None
        guard.report(READ, name, "numbers are copied to the host. " + _USE_READ)
    elif not (given and guard.is_pinned(source)):
        guard.report(
            UPLOAD, name, "numbers are copied from the host's ordinary memory. Make them on the "
            "device (full, arange), or copy from pinned memory with non_blocking=True",
        )  # fmt: skip
    return False


_USE_READ = (
    "Keep the number on the device, or put it into the one read of the evaluation "
    "(motioncache_core/common/host_transfer.py)"
)


def _check_op(
    guard: SyncGuard, func: Any, name: str, args: Any, kwargs: dict[str, Any], hosts: list[Tensor]
) -> None:
    if any(t.ndim > 0 or name in INDEXED for t in hosts):
        guard.report(
            UPLOAD, name, "it takes a tensor, list or number of the host beside tensors of the "
            "device. Make it on the device",
        )  # fmt: skip
    if name in INDEXED:
        if any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1]):
            guard.report(
                SHAPE, name, "a mask as an index becomes a list of rows, whose length the host "
                "needs. Use masked_fill_, torch.where, or ops.compact_rows",
            )  # fmt: skip
    elif torch.Tag.data_dependent_output in func.tags or name in READS:
        guard.report(READ, name, "its result is a number on the host. " + _USE_READ)
    elif torch.Tag.dynamic_output_shape in func.tags and kwargs.get("output_size") is None:
        guard.report(
            SHAPE, name, "the shape of its result depends on numbers on the device. Use an op "
            "with a fixed shape (ops.compact_rows, topk, torch.where)",
        )  # fmt: skip


def _our_frames() -> tuple[tuple[str, int, str, str], ...]:
    ours = []
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        # the environment may lie in the checkout
        installed = "site-packages" in path.parts
        if path.is_relative_to(ROOT) and not installed and path.name not in OWN:
            file = path.relative_to(ROOT).as_posix()
            ours.append((file, frame.lineno or 0, frame.name, frame.line or ""))
    return tuple(ours[:FRAMES])
