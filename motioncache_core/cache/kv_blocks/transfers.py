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
        self.reserve(block, device)
        batch, _, width = block.host[0].shape
        count = batch * length * width
        k, v = (m[:count].view(batch, length, width) for m in self._memory)

        def copy() -> None:
            copy_rows(block.host, (k, v), length)

        self.ready = side.run(copy, (k, v))
        self.tensors, self.holds = (k, v), block

    def reserve(self, block: Stored, device: torch.device) -> None:
        """Make room for all rows of a block."""
        like = block.host[0]
        have = self._memory[0] if self._memory else None
        fits = have is not None and (have.dtype, have.device) == (like.dtype, device)
        if have is None or not fits or have.numel() < like.numel():
            self._memory, self.holds, self.tensors, have = (), None, None, None
            self._memory = tuple(
                torch.empty(like.numel(), dtype=like.dtype, device=device) for _ in range(2)
            )

    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(m.nbytes for m in self._memory)


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

    def reserve(self, block: Stored, device: torch.device) -> None:
        """Make room for all rows of a block now, while it can be done without."""
        for slot in self._slots:
            slot.reserve(block, device)

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

    def release(self) -> None:
        """Give the slots' memory back."""
        self._slots = (Slot(), Slot())

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
