"""Where residuals go: on the model's device, or in the host's memory, both exact.

8 bits with a scale for each token would take half the bytes, but on the demo model they cost up to
a third of the error that reuse itself makes, and residuals are a small part of what is kept: with
keys and values of N blocks, one in 2 N + 1.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.phrases import phrase, together
from ..settings import MotionCacheSettings
from .kv_blocks.host_memory import allocate_alike
from .kv_bytes import CPU, GPU, KVBytes, mib, usable
from .kv_placement import Placement

log = logging.getLogger(__name__)

# shares of free memory that residuals may take together with keys and values, which leave more
_MEMORY_SHARE = 0.9
_HOST_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class ResidualPlacement:
    """Where residuals (and slopes) go, "gpu" or "cpu", and why."""

    place: str
    nbytes: int
    reason: str


def residual_tensors(settings: MotionCacheSettings) -> int:
    """The residual and, where it is wanted, its slope."""
    return 2 if settings.keeps_slope else 1


def place_residuals(
    nbytes: int,
    need: KVBytes,
    kv: Placement,
    free_memory: Callable[[], int] | None,
    free_host_memory: Callable[[], int] | None = None,
    make_room: Callable[[int], None] | None = None,
) -> ResidualPlacement:
    """Choose before the run, once keys and values have their places.

    Args:
        nbytes: residuals and slopes of all branches.
        need: of keys and values.
        kv: where these go. They are not there yet.
        free_memory, free_host_memory, make_room: see `choose_placement`.
    """
    size = mib(nbytes)
    if free_memory is None:
        return ResidualPlacement(GPU, nbytes, phrase("{size} on the model's device", size=size))
    on_device, on_host = need.taken(kv.tiers, kv.forecast)
    wanted = (on_device + nbytes) / _MEMORY_SHARE
    if make_room is not None and wanted > free_memory():
        make_room(int(wanted) + 1)
    free = free_memory()
    beside = phrase(" beside {size} of keys and values", size=mib(on_device)) if on_device else ""
    if wanted <= free:
        kept = phrase("{size} of {free} free", size=size, free=mib(free))
        return ResidualPlacement(GPU, nbytes, together("", [kept, beside]))
    tried = phrase("{free} are free on the device{beside}", free=mib(free), beside=beside)
    here = phrase("{size} on the model's device", size=size)
    if CPU not in need.tiers:
        return ResidualPlacement(GPU, nbytes, together("; ", [here, tried]))
    host = 0 if free_host_memory is None else free_host_memory()
    if on_host + nbytes > _HOST_SHARE * host:
        more = phrase("{tried}, and {host} in the host's memory", tried=tried, host=mib(host))
        reason = together("; ", [here, more])
        log.warning("MotionCache - residuals: %s.", reason)
        return ResidualPlacement(GPU, nbytes, reason)
    there = phrase("{size} in the host's memory", size=size)
    return ResidualPlacement(CPU, nbytes, together("; ", [there, tried]))


def new_residuals(
    count: int, x: Tensor, place: str, zeros: bool
) -> tuple[list[Tensor], torch.device | None]:
    """A residual for tokens `x` `(B, L, C)`, and `count - 1` slopes, which start at 0.

    Args:
        zeros: whether the residual starts at 0; otherwise it is not written to.

    Returns:
        the tensors, and the model's device if they are in the host's memory; where the device has
        no room for them, they are, too.
    """
    if place == GPU:
        try:
            first = torch.zeros_like(x) if zeros else torch.empty_like(x)
            return [first, *(torch.zeros_like(x) for _ in range(count - 1))], None
        except torch.OutOfMemoryError:
            if CPU not in usable(x.device, x.dtype):
                raise
    tensors, _ = allocate_alike(count, tuple(x.shape), x.dtype, x.device)
    for tensor in tensors if zeros else tensors[1:]:
        tensor.zero_()
    return tensors, x.device


def moved_to_host(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """Copies of tensors of one shape and dtype in the host's memory, for a model on `device`."""
    first = tensors[0]
    copies, _ = allocate_alike(len(tensors), tuple(first.shape), first.dtype, device)
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor)
    return copies


def settle(device: torch.device) -> None:
    """Wait until the host may read what the device was told to copy there."""
    if device.type == "cuda" and torch.cuda.is_available():
        torch.cuda.current_stream(device).synchronize()
