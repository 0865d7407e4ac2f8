"""How many bytes the keys and values of a run take, in which tier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .kv_blocks.kinds import FORECASTING

GPU, GPU_FP8, CPU = "gpu", "gpu_fp8", "cpu"


def usable(device: torch.device, dtype: torch.dtype) -> tuple[str, ...]:
    """The tiers that a device has for keys and values of this dtype, best first."""
    if device.type == "mps":
        # its memory is the host's, and it lacks some of the types
        return (GPU,)
    known = dtype in (torch.float32, torch.bfloat16, torch.float16)
    return (GPU, GPU_FP8, CPU) if known else (GPU, CPU)


@dataclass(frozen=True, slots=True)
class KVBytes:
    """Bytes of one block's keys and values, of all branches.

    Attributes:
        full: in the model's dtype.
        quantized: in 8 bits with its scales.
        tiers: what the model's device has, best first.
        forecast: whether their slopes are wanted besides, which take as much again.
        largest: of `full`, what one call of the model reads; all of it unless the clip is cut into
            context windows.
    """

    blocks: int
    full: int
    quantized: int
    tiers: tuple[str, ...] = (GPU, GPU_FP8, CPU)
    forecast: bool = False
    largest: int | None = None

    @classmethod
    def of(
        cls,
        x: Tensor,
        blocks: int,
        heads: int,
        width: int,
        rows: int,
        windows: Sequence[int] = (),
        forecast: bool = False,
    ) -> KVBytes:
        """For tokens `x` `(B, L, C)` in `rows` batch rows of all branches.

        Args:
            width: channels of a key, all heads together.
            windows: token rows of every context window that keeps keys of its own; L is one of
                them.
        """
        lengths = windows or (x.shape[1],)
        total = sum(lengths)
        full = 2 * rows * total * width * x.element_size()
        # a code for each number and a scale, fp32, for each head
        quantized = 2 * rows * total * (width + 4 * heads)
        largest = full // total * max(lengths)
        return cls(blocks, full, quantized, usable(x.device, x.dtype), forecast, largest)

    def kept(self, tier: str) -> int:
        """Bytes that are kept of all blocks in one tier."""
        slopes = 2 if self.forecast and tier in FORECASTING else 1
        return slopes * self.blocks * (self.quantized if tier == GPU_FP8 else self.full)

    def forecasting(self, tier: str) -> int:
        """Bytes on the device with all blocks and their slopes in one tier: what is kept, and of
        one block zeros to add to, what attention reads, and both read back from 8 bits."""
        halves = 7 if tier == GPU_FP8 else 3
        return self.kept(tier) + halves * self._read // 2

    def on_device(self, quantized: int) -> int:
        """Bytes on the device with so many blocks in 8 bits and the others on the host: what is
        kept, one block read back, two slots to read the host's through."""
        back = self._read if quantized else 0
        slots = 2 * self._read if quantized < self.blocks else 0
        return quantized * self.quantized + back + slots

    @property
    def _read(self) -> int:
        return self.full if self.largest is None else self.largest

    def taken(self, tiers: tuple[str, ...], forecast: bool = False) -> tuple[int, int]:
        """Bytes on the device and on the host that blocks in these tiers take, with slopes if
        they are forecast."""
        if forecast:
            return self.forecasting(tiers[0]), 0
        if CPU not in tiers and GPU_FP8 not in tiers:
            return len(tiers) * self.full, 0
        return self.on_device(tiers.count(GPU_FP8)), tiers.count(CPU) * self.full


def mib(nbytes: int) -> str:
    """Bytes in words."""
    return f"{nbytes / 2**20:.0f} MiB"
