"""In the host's memory: exact, and read through two slots on the device while others compute."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from .block import BlockKV, KVShape, TierResources
from .host_memory import allocate
from .transfers import copy_rows


class Offloaded(BlockKV):
    """Keys and values on the host; only rows that change are written back.

    Args:
        host: `(B, L, C)` each, page-locked for a CUDA device.
        mapped: the same memory as tensors that the device can write to; None where it cannot, and
            all rows that were read are written back.
    """

    tier = "cpu"

    def __init__(
        self,
        shared: TierResources,
        form: KVShape,
        host: tuple[Tensor, Tensor],
        mapped: tuple[Tensor, Tensor] | None,
    ) -> None:
        super().__init__(shared, form, host)
        self.host, self.mapped = host, mapped

    @classmethod
    def empty(cls, shared: TierResources, form: KVShape) -> Offloaded:
        return cls(shared, form, *allocate(form.shape, form.dtype, form.device))

    def write(self, k: Tensor, v: Tensor) -> None:
        transfers, fresh = self.shared.transfers, (k.contiguous(), v.contiguous())
        transfers.forget(self)
        transfers.reserve(self, self.form.device)
        side = transfers.side(self.form.device)
        side.run(lambda: copy_rows(fresh, self.host, k.shape[1]), fresh)

    def prefetch(self, length: int) -> None:
        self.shared.transfers.prefetch(self, length, self.form.device)

    def read(self, length: int) -> tuple[Tensor, Tensor]:
        return self.shared.transfers.take(self, length, self.form.device)

    def update(self, k: Tensor, v: Tensor, rows: Tensor, length: int) -> tuple[Tensor, Tensor]:
        ops, mapped = self.shared.ops, self.mapped
        keys, values = self.read(length)
        ops.scatter_kv(k, v, rows, keys, values)
        side = self.shared.transfers.side(self.form.device)
        if mapped is None:
            side.run(lambda: copy_rows((keys, values), self.host, length), (keys, values))
        else:
            side.run(lambda: ops.scatter_kv(k, v, rows, *mapped), (k, v, rows))
        return keys, values

    def settle(self) -> None:
        self.shared.transfers.settle()

    def nbytes(self) -> tuple[int, int]:
        return 0, sum(t.nbytes for t in self.host)

    def part(self, batch: slice) -> Offloaded:
        k, v = (t[batch] for t in self.host)
        seen = None
        if self.mapped is not None:
            seen = self.mapped[0][batch], self.mapped[1][batch]
        return Offloaded(self.shared, replace(self.form, batch=len(k)), (k, v), seen)
