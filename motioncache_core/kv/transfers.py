"""Copies between host and device, beside the model's work where the device can do both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class SideStream(Protocol):
    """Work in the order it is handed in, each piece after all that the model was given before."""

    def run(self, work: Callable[[], None], used: Sequence[Tensor]) -> Any:
        """Hand in work on tensors of the device; returns a mark for `wait`."""

    def wait(self, mark: Any) -> None:
        """What the model is given from now on comes after the marked work."""

    def settle(self) -> None:
        """The host waits for everything."""


class SameStream:
    """For devices without streams: everything is done at once."""

    def run(self, work: Callable[[], None], used: Sequence[Tensor]) -> None:
        work()

    def wait(self, mark: None) -> None: ...

    def settle(self) -> None: ...


class CudaStream:
    """A CUDA stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def run(self, work: Callable[[], None], used: Sequence[Tensor]) -> torch.cuda.Event:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            work()
        for tensor in used:
            # their memory must not be given to others before this stream is done with it
            tensor.record_stream(self._stream)
        event: torch.cuda.Event = self._stream.record_event()
        return event

    def wait(self, mark: torch.cuda.Event) -> None:
        torch.cuda.current_stream(self._device).wait_event(mark)

    def settle(self) -> None:
        self._stream.synchronize()


def side_stream(device: torch.device) -> SideStream:
    """The best that the device has."""
    if device.type == "cuda" and torch.cuda.is_available():
        return CudaStream(device)
    return SameStream()


class Stored(Protocol):
    """Keys and values on the host, `(B, L, C)` each."""

    host: tuple[Tensor, Tensor]


class Slot:
    """Room on the device for the keys and values of one block."""

    def __init__(self) -> None:
        self._memory: tuple[Tensor, ...] = ()
        self.holds: Stored | None = None
        self.tensors: tuple[Tensor, Tensor] | None = None
        self.ready: Any = None

    def load(self, block: Stored, length: int, device: torch.device, side: SideStream) -> None:
        """Start to copy a block's first rows here."""
        self.holds = None
        batch, _, width = block.host[0].shape
        k, v = self._room((batch, length, width), block.host[0].dtype, device)

        def copy() -> None:
            copy_rows(block.host, (k, v), length)

        self.ready = side.run(copy, (k, v))
        self.tensors, self.holds = (k, v), block

    def nbytes(self) -> int:
        return sum(m.nbytes for m in self._memory)

    def _room(
        self, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        count = shape[0] * shape[1] * shape[2]
        have = self._memory[0] if self._memory else None
        if have is None or have.numel() < count or (have.dtype, have.device) != (dtype, device):
            self._memory, self.tensors, have = (), None, None
            self._memory = tuple(torch.empty(count, dtype=dtype, device=device) for _ in range(2))
        k, v = (m[:count].view(shape) for m in self._memory)
        return k, v


class Transfers:
    """Two slots that blocks take turns in: one is read while the other is filled."""

    def __init__(self) -> None:
        self._slots = (Slot(), Slot())
        self._turn = 0
        self._side: SideStream | None = None

    def side(self, device: torch.device) -> SideStream:
        """The stream for copies; one device for the life of this object."""
        if self._side is None:
            self._side = side_stream(device)
        return self._side

    def prefetch(self, block: Stored, length: int, device: torch.device) -> Slot:
        """Start to copy a block's first rows to the device, unless that was done."""
        for slot in self._slots:
            if slot.holds is block and slot.tensors and slot.tensors[0].shape[1] == length:
                return slot
        # one that was taken is free, as what reads it was handed in before
        turns = (self._turn, 1 - self._turn)
        at = next((i for i in turns if self._slots[i].holds is None), self._turn)
        slot, self._turn = self._slots[at], 1 - at
        slot.load(block, length, device, self.side(device))
        return slot

    def take(self, block: Stored, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """A block's first rows on the device, to be read and written until the second next."""
        slot = self.prefetch(block, length, device)
        self.side(device).wait(slot.ready)
        slot.holds = None
        if slot.tensors is None:
            raise RuntimeError("a slot was taken before it was filled")
        return slot.tensors

    def forget(self, block: Stored) -> None:
        """A block's rows were changed on the host."""
        for slot in self._slots:
            if slot.holds is block:
                slot.holds = None

    def settle(self) -> None:
        """The host waits for all copies."""
        if self._side is not None:
            self._side.settle()

    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(slot.nbytes() for slot in self._slots)


def copy_rows(source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor], rows: int) -> None:
    """Copy the first rows of keys and values `(B, L, *)`, without waiting for the device."""
    for there, here in zip(source, target, strict=True):
        for i in range(len(there)):
            # several batch rows at once are no single range of memory, and torch would first make
            # one of them
            here[i, :rows].copy_(there[i, :rows], non_blocking=True)
