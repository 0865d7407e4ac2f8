"""Masks and weights of a run's evaluations, on their way into the trace."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .trace import EvaluationRecord


class PendingMaps:
    """Masks and weights of a run's evaluations, on the device until the run is over."""

    def __init__(self) -> None:
        self._entries: list[tuple[EvaluationRecord, Tensor | None, Tensor | None]] = []

    def add(self, record: EvaluationRecord, weight: Tensor | None, active: Tensor | None) -> None:
        """Keep motion weights `(L,)` fp32 and the mask of active rows `(L,)` for a record."""
        if weight is not None:
            weight = (weight * 255).round().to(torch.uint8)
        self._entries.append((record, weight, active))

    def freeze(self) -> None:
        """Fill the records. Waits for the device."""
        for record, weight, active in self._entries:
            if weight is not None:
                record.weight = weight.cpu().numpy().copy()
            if active is not None:
                record.active = np.packbits(active.cpu().numpy().astype(bool))
        self._entries.clear()
