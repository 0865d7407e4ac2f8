from __future__ import annotations

import torch
from torch import Tensor

from .pieces import pieces


def reuse_residual(
    x: Tensor, residual: Tensor, slope: Tensor | None, gain: Tensor | None
) -> Tensor:
    # a sum of two halves is rounded once by torch as well, so it needs no fp32 copy
    if slope is None or gain is None:
        return (x + residual).to(x.dtype)
    wide = torch.promote_types(x.dtype, torch.float32)
    factor = gain[:, None]
    if x.dtype == wide:
        return (x + residual).addcmul_(factor, slope).to(x.dtype)
    batch, length, channels = x.shape
    y = torch.empty_like(x)
    # the total and a wide copy of what is added
    for part in pieces(length, 2 * batch * channels, x):
        total = x[:, part].to(wide).add_(residual[:, part])
        y[:, part] = total.addcmul_(factor[part], slope[:, part])
    return y
