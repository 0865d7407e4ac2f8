"""The tensor operations the core needs; `kernels` implements them and is handed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class TokenOps(Protocol):
    """See `kernels/ops` for shapes, dtypes and formulas. A module is an implementation."""

    def motion_map(self, features: Tensor) -> Tensor: ...

    def accumulate_due(
        self,
        accumulator: Tensor,
        stale: Tensor,
        distance: Tensor,
        weight: Tensor | None,
        *,
        frames: int,
        threshold: float,
        agreement: float,
        min_update_ratio: float,
        max_stale_steps: int,
    ) -> tuple[Tensor, Tensor]: ...

    def compact_rows(self, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...

    def select_top(self, score: Tensor, count: Tensor) -> Tensor: ...

    def gather_rows(
        self,
        x: Tensor,
        rows: Tensor,
        rotary: Tensor | None = None,
        modulation: Tensor | None = None,
        *,
        divisor: int = 1,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]: ...

    def reuse_residual(
        self, x: Tensor, residual: Tensor, slope: Tensor | None = None, gain: Tensor | None = None
    ) -> Tensor: ...

    def scatter_residual(
        self,
        x: Tensor,
        new: Tensor,
        inverse: Tensor,
        residual: Tensor,
        slope: Tensor | None = None,
        gain: Tensor | None = None,
        inverse_interval: Tensor | None = None,
    ) -> Tensor: ...

    def store_residual(
        self,
        x: Tensor,
        y: Tensor,
        residual: Tensor,
        slope: Tensor | None = None,
        inverse_interval: Tensor | None = None,
    ) -> None: ...

    def correct_rows(
        self,
        pred: Tensor,
        new: Tensor,
        rows: Tensor,
        targets: Tensor,
        sources: Tensor,
        weight: Tensor,
    ) -> Tensor: ...

    def scatter_kv(
        self,
        k_new: Tensor,
        v_new: Tensor,
        rows: Tensor,
        k_store: Tensor,
        v_store: Tensor,
        k_scale: Tensor | None = None,
        v_scale: Tensor | None = None,
    ) -> None: ...

    def read_kv(
        self,
        k_store: Tensor,
        v_store: Tensor,
        k_scale: Tensor,
        v_scale: Tensor,
        *,
        dtype: torch.dtype,
        length: int | None = None,
    ) -> tuple[Tensor, Tensor]: ...

    def reuse_answer(
        self, x: Tensor, answers: Tensor, weights: Sequence[float], sigma: float
    ) -> Tensor: ...

    def store_answer(
        self,
        x: Tensor,
        x0: Tensor,
        answers: Tensor,
        weights: Sequence[float],
        own: float,
        sigma: float,
        slot: int,
    ) -> Tensor: ...


Distance = Tensor | float


class DistanceMeasure(Protocol):
    """What the session needs of a measure."""

    def signal(self, tokens: Tensor, modulation: Tensor | None, sigma: Tensor) -> Tensor:
        """What is remembered of a call.

        Args:
            tokens: `(B, N, C)` rows of one chunk before the first block.
            modulation: `(T, 6, C)` timestep modulation of the chunk's frames, T of 1 or frames;
                None where the family has none.
            sigma: the chunk's noise level, 1 (noise) to 0 (clean), 0-d on the device.
        """

    def between(self, previous: Tensor, current: Tensor) -> Distance:
        """Distance between two calls: a number, or a 0-d tensor on the model's device."""


class DistanceSource(Protocol):
    """A measure before it is known where the model runs."""

    @property
    def name(self) -> str: ...

    def to(self, device: torch.device) -> DistanceMeasure:
        """The measure, with whatever tables it has on this device."""
