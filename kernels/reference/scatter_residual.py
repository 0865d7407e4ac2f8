from __future__ import annotations

import torch
from torch import Tensor

from .reuse_residual import reuse_residual


def scatter_residual(
    x: Tensor,
    new: Tensor,
    inverse: Tensor,
    residual: Tensor,
    slope: Tensor | None,
    gain: Tensor | None,
    inverse_interval: Tensor | None,
) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    y = reuse_residual(x, residual, slope, gain)
    for i, places in enumerate(inverse):
        # one list serves all batch rows, or each has its own
        part = slice(None) if inverse.shape[0] == 1 else slice(i, i + 1)
        rows = (places >= 0).nonzero().view(-1)
        fresh = new[part].index_select(1, places.index_select(0, rows))
        learned = fresh.to(wide) - x[part].index_select(1, rows)
        if slope is not None and inverse_interval is not None:
            rate = inverse_interval.index_select(0, rows)
            # at an unchanged noise level there is nothing to learn a slope from
            rows_moved, known = rows[rate != 0], rate != 0
            moved = (learned - residual[part].index_select(1, rows))[:, known]
            moved.mul_(rate[known][:, None])
            slope[part].index_copy_(1, rows_moved, moved.to(slope.dtype))
        residual[part].index_copy_(1, rows, learned.to(residual.dtype))
        y[part].index_copy_(1, rows, fresh.to(y.dtype))
    return y
