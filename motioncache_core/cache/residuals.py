"""Residuals of the block stack: stored, scattered into, reused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.errors import CacheShapeError
from ..common.protocols import TokenOps
from .branches import BranchRows
from .correction import FEATURES, Correction, features
from .row_update import RowUpdate

# bytes of a residual that are on the device at a time, where it is kept in the host's memory
PIECE = 64 * 2**20


@dataclass(frozen=True, slots=True)
class ResidualPiece:
    """Residual and slope of some rows, on the model's device.

    Attributes:
        batch, rows: of the call's tokens.
        gain, rate: the forecast's factors for these rows, where there is one.
    """

    batch: slice
    rows: slice
    residual: Tensor
    slope: Tensor | None
    gain: Tensor | None
    rate: Tensor | None


def reuse(ops: TokenOps, updates: Sequence[RowUpdate], state: BranchRows, x: Tensor) -> Tensor:
    """`x + r` for all rows of `x` `(B, L, C)`, with the forecast where there is one."""

    y = None
    for update in updates:
        for h in _pieces(state, update, x):
            slope = None if h.gain is None else h.slope
            gain = None if slope is None else h.gain
            y = _put(y, x, h, ops.reuse_residual(_of(x, h), h.residual, slope, gain))
    return x if y is None else y


def scatter(
    ops: TokenOps,
    updates: Sequence[RowUpdate],
    state: BranchRows,
    x: Tensor,
    found: Sequence[Tensor],
) -> Tensor:
    """Full-length output `(B, L, C)` from the `answers` of the active rows.

    Active rows' residuals (and slopes) are updated; the others are reused, and corrected where the
    update says so. Done again after it broke off, rows that were done have a slope of 0, which is
    no forecast.
    """
    out = None
    for update, answer in zip(updates, found, strict=True):
        correction, first = _correction(update, state), update.batch.indices(x.shape[0])[0]
        inverse = update.inverse if correction is None else correction.inverse
        if inverse is None:
            raise CacheShapeError("a partial evaluation without the list of computed rows")
        for h in _pieces(state, update, x, write=True):
            known = h.slope is not None and h.gain is not None
            start, stop, _ = h.batch.indices(x.shape[0])
            rate = h.rate if correction is None else correction.inverse_interval[h.rows]
            merged = ops.scatter_residual(
                _of(x, h),
                answer[start - first : stop - first],
                inverse[:, h.rows],
                h.residual,
                h.slope if known else None,
                h.gain if known else None,
                rate if known else None,
            )
            out = _put(out, x, h, merged)
    return x if out is None else out


def _correction(update: RowUpdate, state: BranchRows) -> Correction | None:
    return update.correction if state.filled else None


def answers(
    ops: TokenOps, updates: Sequence[RowUpdate], state: BranchRows, x: Tensor, y: Tensor
) -> list[Tensor]:
    """Each update's computed rows of `y` `(B, n, C)`, and behind them the rows that these correct:
    for `scatter`, from residuals that are not updated yet."""
    found, forecast = [], None
    for update in updates:
        correction, rows, computed = _correction(update, state), update.rows, y[update.batch]
        if correction is None or rows is None:
            found.append(computed)
            continue
        if forecast is None:
            forecast = reuse(ops, updates, state, x)
        computed = computed[:, : len(rows)].contiguous()
        weights = correction.weights(_features(state, update, x), rows)
        others = ops.correct_rows(
            forecast[update.batch], computed, rows, correction.targets, correction.sources, weights
        )
        found.append(torch.cat([computed, others], dim=1))
    return found


def _features(state: BranchRows, update: RowUpdate, x: Tensor) -> Tensor:
    """What tells the tokens apart, `(b, L, FEATURES)`: how their residuals change, or what
    they are where no slope is kept."""
    out = x.new_empty((*x.shape[:2], FEATURES), dtype=torch.float32)
    for h in _pieces(state, update, x):
        out[h.batch, h.rows] = features(h.residual if h.slope is None else h.slope)
    return out[update.batch]


def store(
    ops: TokenOps, updates: Sequence[RowUpdate], state: BranchRows, x: Tensor, y: Tensor
) -> None:
    """Remember the residual of a full evaluation, and its slope from the second one on."""
    y = y.contiguous()
    for update in updates:
        for h in _pieces(state, update, x, write=True):
            learned = state.filled and h.slope is not None and h.rate is not None
            ops.store_residual(
                _of(x, h),
                _of(y, h),
                h.residual,
                h.slope if learned else None,
                h.rate if learned else None,
            )


def _pieces(
    state: BranchRows, update: RowUpdate, x: Tensor, write: bool = False
) -> Iterator[ResidualPiece]:
    """The update's batch rows, in as many pieces as it takes.

    Args:
        write: keep what is written to them.
    """
    gain, rate = update.gain, update.inverse_interval
    if state.device is None:
        slope = None if state.slope is None else state.slope[update.batch]
        yield ResidualPiece(
            update.batch, slice(None), state.residual[update.batch], slope, gain, rate
        )
        return
    batch, length, width = x.shape
    step = max(1, PIECE // (width * x.element_size()))
    for b in range(*update.batch.indices(batch)):
        for first in range(0, length, step):
            # one batch row's are one range of memory
            one, rows = slice(b, b + 1), slice(first, min(first + step, length))
            there = [t[one, rows] for t in (state.residual, state.slope) if t is not None]
            here = [torch.empty_like(t, device=x.device) for t in there]
            _copy(there, here)
            slope = here[1] if len(here) > 1 else None
            factors = (None if f is None else f[rows] for f in (gain, rate))
            yield ResidualPiece(one, rows, here[0], slope, *factors)
            if write:
                _copy(here, there)


def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    for there, here in zip(source, target, strict=True):
        here.copy_(there, non_blocking=True)


def _of(x: Tensor, held: ResidualPiece) -> Tensor:
    return x[held.batch, held.rows]


def _put(whole: Tensor | None, x: Tensor, held: ResidualPiece, piece: Tensor) -> Tensor:
    """The piece in its place in a result like `x`; itself if it is all of that."""
    if piece.shape == x.shape:
        return piece
    if whole is None:
        whole = torch.empty_like(x)
    whole[held.batch, held.rows] = piece
    return whole
