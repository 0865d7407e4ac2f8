"""Forecast of the keys and values of rows that are not computed (ours).

Stored keys and values belong to the noise level at which their row was computed. Here they are
carried on along their last change per unit of sigma, as residuals are (`ForecastClock`), whenever
attention reads them; what is stored stays as it was computed. Keys are rotated, and a row's
rotation does not change, so the slope of rotated keys is the rotated slope.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...common.errors import CacheShapeError
from ..row_update import RowUpdate
from .block import BlockKV, KVShape, TierResources
from .resident import Resident


def no_slopes(shared: TierResources, kind: type[BlockKV], form: KVShape) -> BlockKV:
    """Slopes of keys and values, all 0."""
    slopes = kind.empty(shared, form)
    for tensor in slopes.tensors:
        tensor.zero_()
    return slopes


def cleared(slopes: BlockKV, rows: slice) -> BlockKV:
    """These slopes, 0 in some rows."""
    for tensor in slopes.tensors:
        tensor[:, rows] = 0
    return slopes


def for_fewer(slopes: BlockKV, held: int, keep: int) -> BlockKV:
    """Slopes once the first `held` rows are `keep` finished ones, which are not forecast."""
    return cleared(slopes.without_first(held - keep), slice(0, keep))


def learn(
    entry: BlockKV, slopes: BlockKV, k: Tensor, v: Tensor, updates: Sequence[RowUpdate]
) -> None:
    """Store the keys and values `(B, L, C)` of a full evaluation, and their slopes."""
    ops, (old, rates) = entry.shared.ops, _read(entry, slopes)
    zeros = entry.shared.zeros(old[0])
    for new, held, rate in zip((k, v), old, rates, strict=True):
        new = new.contiguous()
        for s in updates:
            b = s.batch
            ops.store_residual(zeros[b], new[b], held[b], rate[b], s.inverse_interval)
    if not isinstance(entry, Resident):
        entry.write(k, v)
        slopes.write(*rates)


def carry_on(
    entry: BlockKV,
    slopes: BlockKV,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    updates: Sequence[RowUpdate],
) -> tuple[Tensor, Tensor]:
    """Store computed rows and their slopes.

    Args:
        k, v: `(B, n, C)`.
        rows: their rows in the store, `(1 or B, n)` int32, -1 is skipped.

    Returns:
        keys and values of all rows `(B, L, C)`: the new ones, and the others' forecast.
    """
    ops, (old, rates) = entry.shared.ops, _read(entry, slopes)
    zeros = entry.shared.zeros(old[0])
    result = []
    for new, held, rate in zip((k, v), old, rates, strict=True):
        new, parts = new.contiguous(), []
        for s in updates:
            b = s.batch
            if s.inverse is None:
                raise CacheShapeError("a forecast of keys and values without the computed rows")
            parts.append(
                ops.scatter_residual(
                    zeros[b], new[b], s.inverse, held[b], rate[b], s.gain, s.inverse_interval
                )
            )
        result.append(parts[0] if len(parts) == 1 else torch.cat(parts))
    if not isinstance(entry, Resident):
        k_rate, v_rate = (ops.gather_rows(rate, rows)[0] for rate in rates)
        ops.scatter_kv(k.contiguous(), v.contiguous(), rows, *entry.tensors)
        ops.scatter_kv(k_rate, v_rate, rows, *slopes.tensors)
    return result[0], result[1]


def _read(entry: BlockKV, slopes: BlockKV) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return entry.read(entry.form.rows), slopes.read(entry.form.rows)
