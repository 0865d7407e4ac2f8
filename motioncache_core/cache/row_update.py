""""""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class RowUpdate:
    """What the forecast of some batch rows needs to know of one call.

    Attributes:
        batch: the batch rows.
        inverse: `(1, L)` int32, place of each row among those that are computed, or -1.
        gain: `(L,)` fp32, how far along the slope the rows that are not computed are carried.
        inverse_interval: `(L,)` fp32, 1 / change of sigma since a row was computed, or 0.
    """

    batch: slice
    inverse: Tensor
    gain: Tensor
    inverse_interval: Tensor


@dataclass(slots=True)
class RowUpdates:
    """A call's steps in rows of the clip, and in rows of a store that holds others."""

    parts: Sequence[RowUpdate]
    _moved: dict[tuple[int, int, int], Sequence[RowUpdate]] = field(default_factory=dict)

    def of_store(self, rows: int, kept: int, size: int) -> Sequence[RowUpdate]:
        """For a store of `size` rows whose first `kept` stand for the clip's first `rows`."""
        key = rows, kept, size
        if key not in self._moved:
            self._moved[key] = [_moved(step, *key) for step in self.parts]
        return self._moved[key]


def _moved(step: RowUpdate, rows: int, kept: int, size: int) -> RowUpdate:
    if rows == kept and size == step.gain.shape[0]:
        return step

    def placed(x: Tensor, fill: int) -> Tensor:
        out = x.new_full((*x.shape[:-1], size), fill)
        taken = x[..., rows : rows + size - kept]
        out[..., kept : kept + taken.shape[-1]] = taken
        return out

    return RowUpdate(
        step.batch, placed(step.inverse, -1), placed(step.gain, 0), placed(step.inverse_interval, 0)
    )
