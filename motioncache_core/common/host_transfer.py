"""Numbers that cross between host and device. Every crossing of an evaluation is in this file."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def read(numbers: Tensor) -> list[float]:
    """The numbers `(n,)` on the host. This waits for the device: at most once per evaluation."""
    values: list[float] = numbers.tolist()
    return values


def widest(device: torch.device) -> torch.dtype:
    """The widest floating-point type that the device has."""
    return torch.float32 if device.type == "mps" else torch.float64


def upload(
    values: Sequence[float] | Tensor, device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Numbers `(n,)` of the host on the device, without waiting for it."""
    numbers = torch.as_tensor(values, dtype=dtype)
    if device.type != "cuda":
        return numbers.to(device)
    # a copy from memory that is not pinned waits until the device has caught up
    return numbers.pin_memory().to(device, non_blocking=True)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """All numbers of some small tensors in one, wide enough for every count and noise level."""
    wide = widest(parts[0].device)
    return torch.cat([part.reshape(-1).to(wide) for part in parts])
