"""On the model's device, in its dtype: exact, nothing is copied."""

from __future__ import annotations

import torch
from torch import Tensor

from .block import BlockKV, KVShape, TierResources


class Resident(BlockKV):
    """The very tensors that the model made, where they own their memory."""

    tier = "gpu"

    @classmethod
    def empty(cls, shared: TierResources, form: KVShape) -> Resident:
        tensors = tuple(
            torch.empty(form.shape, dtype=form.dtype, device=form.device) for _ in range(2)
        )
        return cls(shared, form, tensors)

    @classmethod
    def keeping(cls, shared: TierResources, k: Tensor, v: Tensor, old: BlockKV | None) -> BlockKV:
        return cls(shared, KVShape.of(k), (_owned(k), _owned(v)))

    def write(self, k: Tensor, v: Tensor) -> None:
        for store, new in zip(self.tensors, (k, v), strict=True):
            store[:, : new.shape[1]] = new

    def read(self, length: int) -> tuple[Tensor, Tensor]:
        keys, values = self.tensors
        return keys, values

    def update(self, k: Tensor, v: Tensor, rows: Tensor, length: int) -> tuple[Tensor, Tensor]:
        keys, values = self.tensors
        self.shared.ops.scatter_kv(k, v, rows, keys, values)
        return keys, values


def _owned(x: Tensor) -> Tensor:
    whole = x.is_contiguous() and x.untyped_storage().nbytes() == x.nbytes
    return x if whole else x.clone(memory_format=torch.contiguous_format)
