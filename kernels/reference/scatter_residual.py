from __future__ import annotations

import torch
from torch import Tensor

from .pieces import pieces
from .reuse_residual import reuse_residual

# numbers of a row that are in temporaries at a time, in rows
TEMPORARIES = 4


def scatter_residual(
    x: Tensor,
    new: Tensor,
    inverse: Tensor,
    residual: Tensor,
    slope: Tensor | None,
    gain: Tensor | None,
    inverse_interval: Tensor | None,
) -> Tensor:
    y = reuse_residual(x, residual, slope, gain)
    merge = merge_listed if x.is_cpu else merge_dense
    for b in range(x.shape[0]):
        places = inverse[b if inverse.shape[0] > 1 else 0]
        learned = None if slope is None else slope[b]
        merge(y[b], x[b], new[b], places, residual[b], learned, inverse_interval)
    return y


def merge_listed(
    y: Tensor,
    x: Tensor,
    new: Tensor,
    places: Tensor,
    residual: Tensor,
    slope: Tensor | None,
    rate: Tensor | None,
) -> None:
    """Put the active rows of one batch row into y, residual and slope. Lists them first, whose
    number the host needs."""
    wide = torch.promote_types(x.dtype, torch.float32)
    active = (places >= 0).nonzero().view(-1)
    for part in pieces(active.shape[0], TEMPORARIES * x.shape[1], x):
        rows = active[part]
        fresh = new.index_select(0, places.index_select(0, rows))
        y.index_copy_(0, rows, fresh.to(y.dtype))
        # fresh is ours, and is no longer needed
        learned = fresh.to(wide).sub_(x.index_select(0, rows))
        if slope is None or rate is None:
            residual.index_copy_(0, rows, learned.to(residual.dtype))
            continue
        before = residual.index_select(0, rows)
        residual.index_copy_(0, rows, learned.to(residual.dtype))
        factor = rate.index_select(0, rows)[:, None]
        moved = learned.sub_(before).mul_(factor).to(slope.dtype)
        still = factor == 0
        # at an unchanged noise level there is nothing to learn a slope from
        if bool(still.any()):
            moved = torch.where(still, slope.index_select(0, rows), moved)
        slope.index_copy_(0, rows, moved)


def merge_dense(
    y: Tensor,
    x: Tensor,
    new: Tensor,
    places: Tensor,
    residual: Tensor,
    slope: Tensor | None,
    rate: Tensor | None,
) -> None:
    """The same over all rows, so that nobody has to know how many of them are active."""
    if new.shape[0] == 0:
        return
    wide = torch.promote_types(x.dtype, torch.float32)
    active, row = (places >= 0)[:, None], places.clamp(min=0)
    for part in pieces(x.shape[0], TEMPORARIES * x.shape[1], x):
        chosen = active[part]
        fresh = new.index_select(0, row[part])
        torch.where(chosen, fresh.to(y.dtype), y[part], out=y[part])
        learned = fresh.to(wide).sub_(x[part])
        if slope is not None and rate is not None:
            factor = rate[part, None]
            moved = (learned - residual[part]).mul_(factor).to(slope.dtype)
            torch.where(chosen & (factor != 0), moved, slope[part], out=slope[part])
        torch.where(chosen, learned.to(residual.dtype), residual[part], out=residual[part])
