"""What one call does to the rows that are kept: residuals, keys and values alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .correction import Correction


@dataclass(frozen=True, slots=True)
class RowUpdate:
    """Rows of some batch rows: which are computed, and how the others are carried on.

    Attributes:
        batch: the batch rows.
        inverse: `(1, L)` int32, place of each row among those that are computed, or -1; None where
            all rows or none are computed.
        gain: `(L,)` fp32, how far along the slope rows that are not computed are carried; None
            without a forecast.
        inverse_interval: `(L,)` fp32, 1 / change of sigma since a row was computed, or 0; None
            where no slope is learned.
        rows: computed rows `(n,)` int32, ascending; None where all or none are.
        correction: of the rows that are not computed; None without one.
    """

    batch: slice
    inverse: Tensor | None
    gain: Tensor | None
    inverse_interval: Tensor | None
    rows: Tensor | None = None
    correction: Correction | None = None


@dataclass(slots=True)
class RowUpdates:
    """A call's updates in rows of the clip, and in rows of a store that holds others."""

    parts: Sequence[RowUpdate]
    _moved: dict[tuple[int, int, int], Sequence[RowUpdate]] = field(default_factory=dict)
    _around: dict[tuple[int, int], RowUpdates] = field(default_factory=dict)

    def of_store(self, rows: int, kept: int, size: int) -> Sequence[RowUpdate]:
        """For a store of `size` rows whose first `kept` stand for the clip's first `rows`."""
        key = rows, kept, size
        if key not in self._moved:
            self._moved[key] = [_moved(update, *key) for update in self.parts]
        return self._moved[key]

    def around(self, before: int, behind: int, computed: int) -> RowUpdates:
        """For sequences with rows around the video's, all of which are computed.

        Args:
            computed: video rows in the list of computed rows, its padding included.
        """
        key = before, behind
        if key not in self._around:
            parts = [_around(update, before, behind, computed) for update in self.parts]
            self._around[key] = RowUpdates(parts)
        return self._around[key]


def _around(update: RowUpdate, before: int, behind: int, computed: int) -> RowUpdate:
    def zeros(x: Tensor | None) -> Tensor | None:
        # they are never forecast
        return None if x is None else torch.nn.functional.pad(x, (before, behind))

    inverse = update.inverse
    if inverse is not None:
        places = torch.arange(before + behind, dtype=inverse.dtype, device=inverse.device)[None]
        video = torch.where(inverse < 0, -1, inverse + before)
        inverse = torch.cat((places[:, :before], video, places[:, before:] + computed), dim=1)
    return RowUpdate(update.batch, inverse, zeros(update.gain), zeros(update.inverse_interval))


def _moved(update: RowUpdate, rows: int, kept: int, size: int) -> RowUpdate:
    def placed(x: Tensor | None, fill: int) -> Tensor | None:
        if x is None or (rows == kept and size == x.shape[-1]):
            return x
        out = x.new_full((*x.shape[:-1], size), fill)
        taken = x[..., rows : rows + size - kept]
        out[..., kept : kept + taken.shape[-1]] = taken
        return out

    return RowUpdate(
        update.batch,
        placed(update.inverse, -1),
        placed(update.gain, 0),
        placed(update.inverse_interval, 0),
    )
