"""What the engine must answer, worked out row by row for a network of one block.

The network is `toy_models.DoublingNet(blocks=1, attention=1, timed=True, placed=True)`: an active
row's answer is `2 x + timestep + row + sum of all values`, its value is its input.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class ByHand:
    """The cache of one batch row. All arrays are `(L, C)` or `(L, 1)`."""

    def __init__(self, forecast: float) -> None:
        self.forecast = forecast
        self.values: Numbers | None = None

    def call(self, x: Numbers, timestep: Numbers, active: Mask) -> Numbers:
        """The answer when the rows in `active` `(L,)` are computed.

        Args:
            timestep: of every row, `(L, 1)`; a thousandth of it is sigma.
        """
        sigma, chosen = timestep / 1000, active[:, None]
        if self.values is None:
            assert active.all()
            self.values, self.residual, self.slope = x, np.zeros_like(x), np.zeros_like(x)
            self.computed, self.interval, filled = sigma, np.zeros_like(sigma), False
        else:
            filled = True
        self.values = np.where(chosen, x, self.values)
        rows = np.arange(len(x))[:, None]
        fresh = 2 * x + timestep + rows + self.values.sum(axis=0, keepdims=True)
        ahead = sigma - self.computed
        answer = np.where(chosen, fresh, x + self.residual + self._term(ahead))
        moved = chosen & (np.abs(ahead) > 1e-9)
        if filled:
            rate = (fresh - x - self.residual) / np.where(ahead == 0, 1, ahead)
            self.slope = np.where(moved, rate, self.slope)
        self.residual = np.where(chosen, fresh - x, self.residual)
        self.interval = np.where(moved, ahead, self.interval)
        self.computed = np.where(moved, sigma, self.computed)
        return answer

    def _term(self, ahead: Numbers) -> Numbers:
        known = self.interval != 0
        intervals = np.abs(ahead / np.where(known, self.interval, 1))
        return known * self.forecast * ahead / np.maximum(1, intervals) * self.slope
