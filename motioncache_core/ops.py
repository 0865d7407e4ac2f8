"""The tensor operations the core needs; `kernels` implements them and is handed in."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class TokenOps(Protocol):
    """See `kernels/ops.py` for shapes, dtypes and formulas. A module is an implementation."""

    def motion_map(self, features: Tensor, previous: Tensor | None) -> Tensor: ...

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

    def gather_rows(self, x: Tensor, rows: Tensor, *, divisor: int = 1) -> Tensor: ...

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

    def scatter_kv(
        self, k_new: Tensor, v_new: Tensor, rows: Tensor, k_store: Tensor, v_store: Tensor
    ) -> None: ...
