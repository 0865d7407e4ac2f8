from __future__ import annotations

import torch
from torch import Tensor

from .pieces import pieces

# numbers in temporaries, for each one of x
TEMPORARIES = 3


def store_residual(
    x: Tensor,
    y: Tensor,
    residual: Tensor,
    slope: Tensor | None,
    inverse_interval: Tensor | None,
) -> None:
    wide = torch.promote_types(x.dtype, torch.float32)
    # a difference of two halves is rounded once by torch as well, so it needs no fp32 copy
    alike = x.dtype == y.dtype == residual.dtype
    if alike and (slope is None or inverse_interval is None):
        torch.sub(y, x, out=residual)
        return
    batch, length, channels = x.shape
    for part in pieces(length, TEMPORARIES * batch * channels, x):
        learned = y[:, part].to(wide) - x[:, part]
        if slope is not None and inverse_interval is not None:
            rate = inverse_interval[part, None]
            moved = learned - residual[:, part]
            # at an unchanged noise level there is nothing to learn a slope from
            if x.is_cpu and bool((rate != 0).all()):
                torch.mul(moved, rate, out=slope[:, part])
            elif not x.is_cpu or bool((rate != 0).any()):
                slope[:, part] = torch.where(rate != 0, moved.mul_(rate), slope[:, part])
        residual[:, part] = learned
