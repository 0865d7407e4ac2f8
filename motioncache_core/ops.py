"""The tensor operations the core needs; `kernels` implements them and is handed in."""

from __future__ import annotations

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
