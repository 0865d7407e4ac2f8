"""On the model's device in 8 bits: half the bytes, read back just before the attention."""

from __future__ import annotations

import torch
from torch import Tensor

from .block import BlockKV, KVShape, TierResources

# what a key is off by shifts all logits of its token: fp8 rounds its large channels, which count
# most there, far more coarsely than int8 does
KEYS, VALUES = torch.int8, torch.float8_e4m3fn


class Quantized(BlockKV):
    """Codes `(B, L, C)` and a scale for each token and head `(B, L, heads)` fp32, see
    `kernels/ops`."""

    tier = "gpu_fp8"

    @classmethod
    def empty(cls, shared: TierResources, form: KVShape) -> Quantized:
        scales = (form.batch, form.rows, shared.heads)
        shapes = [(form.shape, KEYS), (form.shape, VALUES)] + [(scales, torch.float32)] * 2
        tensors = tuple(torch.empty(s, dtype=d, device=form.device) for s, d in shapes)
        return cls(shared, form, tensors)

    def write(self, k: Tensor, v: Tensor) -> None:
        rows = torch.arange(k.shape[1], dtype=torch.int32, device=k.device)[None]
        self.shared.ops.scatter_kv(k.contiguous(), v.contiguous(), rows, *self.tensors)

    def read(self, length: int) -> tuple[Tensor, Tensor]:
        return self.shared.ops.read_kv(*self.tensors, dtype=self.form.dtype, length=length)

    def update(self, k: Tensor, v: Tensor, rows: Tensor, length: int) -> tuple[Tensor, Tensor]:
        ops = self.shared.ops
        ops.scatter_kv(k, v, rows, *self.tensors)
        keys, values = self.read(length)
        # the rows of this evaluation need not be rounded
        ops.scatter_kv(k, v, rows, keys, values)
        return keys, values
