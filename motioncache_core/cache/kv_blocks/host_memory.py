"""Memory of the host that a CUDA device copies from, and writes to, without the host's help."""

from __future__ import annotations

import logging
import sys
import weakref
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

_PAGE = 4096


def allocate(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
    """Keys and values `shape` on the host.

    For a CUDA device the memory is page-locked, in pages of its own, for as long as a tensor of
    it lives. torch's pinned memory would take the next power of two, and is never given back.

    Returns:
        the tensors, and the same memory as tensors of the device, None where it cannot write to
        it.

    Raises:
        torch.OutOfMemoryError: the host has not got that much.
    """
    host, mapped = allocate_alike(2, shape, dtype, device)
    return (host[0], host[1]), None if mapped is None else (mapped[0], mapped[1])


def allocate_alike(
    count: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[list[Tensor], list[Tensor] | None]:
    """`allocate` for any number of tensors."""
    size = torch.empty(0, dtype=dtype).element_size()
    for length in shape:
        size *= length
    # a page is the host's smallest; it locks whole ones
    each = -(-size // _PAGE) * _PAGE
    try:
        if device.type != "cuda":
            tensors = [torch.empty(shape, dtype=dtype) for _ in range(count)]
            return tensors, tensors
        memory = torch.empty(count * each + _PAGE, dtype=torch.uint8)
    except RuntimeError as error:
        raise torch.OutOfMemoryError(f"the host's memory: {error}") from None
    first = -memory.data_ptr() % _PAGE
    memory = memory[first : first + count * each]
    mapped = _lock(memory, device) if size else None
    parts = [
        [m[i * each :][:size].view(dtype).view(shape) for i in range(count)]
        for m in (memory, mapped)
        if m is not None
    ]
    return parts[0], parts[1] if len(parts) > 1 else None


def _lock(memory: Tensor, device: torch.device) -> Tensor | None:
    """Page-lock; returns the memory as the device's tensor where the device can write to it."""
    runtime: Any = torch.cuda.cudart()
    address = memory.data_ptr()
    with torch.cuda.device(device):
        failed = int(runtime.cudaHostRegister(address, memory.nbytes, 0))
    if failed:
        _clear_error(device)
        log.warning(
            "MotionCache - %d MiB of the host's memory could not be page-locked (error %d): copies "
            "will be slow.", memory.nbytes // 2**20, failed,
        )  # fmt: skip
        return None
    # the storage lives as long as any tensor of it
    weakref.finalize(memory.untyped_storage(), _unlock, address, device).atexit = False
    return _as_device(memory, device)


def _unlock(address: int, device: torch.device) -> None:
    # copies from and to it may be under way
    torch.cuda.synchronize(device)
    runtime: Any = torch.cuda.cudart()
    runtime.cudaHostUnregister(address)


def _clear_error(device: torch.device) -> None:
    """Or torch would take it for its next kernel's."""
    try:
        torch.zeros(1, device=device).add_(1)
        torch.cuda.synchronize(device)
    except RuntimeError:
        pass


class _Shown:
    """Memory under the device's name."""

    def __init__(self, memory: Tensor) -> None:
        self.memory = memory
        self.__cuda_array_interface__ = {
            "shape": (memory.nbytes,),
            "typestr": "|u1",
            "data": (memory.data_ptr(), False),
            "strides": None,
            "version": 2,
        }


def _as_device(memory: Tensor, device: torch.device) -> Tensor | None:
    # elsewhere, the device may know locked memory by another address
    if torch.version.cuda is None or not sys.platform.startswith("linux"):
        return None
    try:
        shown = torch.as_tensor(_Shown(memory), device=device)
    except (RuntimeError, TypeError):
        return None
    # a copy would not reach the host
    return shown if shown.data_ptr() == memory.data_ptr() else None
