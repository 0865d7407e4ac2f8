"""When each token was last computed, and how far its forecast reaches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class ForecastClock:
    """When each token was last computed, `(L,)` fp32 in units of sigma.

    Attributes:
        computed: sigma of the last computation.
        interval: change of sigma between the last two computations, 0 before there were two.
    """

    computed: Tensor
    interval: Tensor

    @classmethod
    def start(cls, sigma: Tensor) -> ForecastClock:
        return cls(sigma.clone(), torch.zeros_like(sigma))

    def gain(self, sigma: Tensor, forecast: float) -> Tensor:
        """`forecast * (sigma - computed) / max(1, horizon)`; 0 where no slope is known (ours)."""
        ahead = sigma - self.computed
        horizon = (ahead / self.interval).abs().nan_to_num(posinf=1.0).clamp_min(1.0)
        return torch.where(self.interval == 0, 0.0, forecast * ahead / horizon)

    def inverse_interval(self, sigma: Tensor) -> Tensor:
        """1 / (sigma - computed), 0 where sigma did not move."""
        ahead = sigma - self.computed
        return torch.where(ahead == 0, 0.0, 1.0 / ahead)

    def slide(self, rows: int, tokens: int, sigma: float) -> None:
        """The first rows leave; rows at noise level `sigma` join up to `tokens`."""
        joining = tokens - (len(self.computed) - rows)
        level = self.computed.new_full((joining,), sigma)
        self.computed = torch.cat((self.computed[rows:], level))
        self.interval = torch.cat((self.interval[rows:], torch.zeros_like(level)))

    def advance(self, sigma: Tensor, active: Tensor | None) -> None:
        """Tokens in the boolean mask (None: all) were computed at `sigma`."""
        ahead = sigma - self.computed
        moved = ahead != 0 if active is None else (ahead != 0) & active
        self.interval = torch.where(moved, ahead, self.interval)
        self.computed = torch.where(moved, sigma, self.computed)
