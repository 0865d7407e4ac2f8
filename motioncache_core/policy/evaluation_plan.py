"""What the decisions of a clip mean for one evaluation: rows that run, and the others' forecast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cache.correction import Correction
from ..common.decision_kinds import DENSE, PARTIAL, REUSE
from ..common.protocols import TokenOps
from ..common.token_layout import TokenLayout
from .chunk_decision import Decision


@dataclass(slots=True)
class EvaluationPlan:
    """The decision of one evaluation.

    Attributes:
        chunks: rows to compute in each chunk.
        rows: active rows `(n,)` int32 ascending; None unless partial.
        inverse: slot of each row or -1, `(1, L)` int32; None unless partial.
        gain, inverse_interval: forecast factors `(L,)` fp32, None without a forecast.
        kv_gain, kv_inverse_interval: the factors for keys and values, which are not corrected. The
            gain is 0 in finished chunks, which are computed once more at the level at which they
            stay.
        correction: of the forecast of tokens that are not computed; None without one.
        whole: whether every chunk is computed as a whole or not at all.
    """

    kind: str
    chunks: tuple[int, ...]
    rows: Tensor | None = None
    inverse: Tensor | None = None
    gain: Tensor | None = None
    inverse_interval: Tensor | None = None
    kv_gain: Tensor | None = None
    kv_inverse_interval: Tensor | None = None
    correction: Correction | None = None
    whole: bool = False

    @property
    def active(self) -> int:
        """Rows to compute."""
        return sum(self.chunks)

    def without_slope(self, gain: Tensor | None) -> EvaluationPlan:
        """This plan for rows whose forecast slope is not to be learned from this evaluation."""
        return replace(
            self,
            gain=gain,
            inverse_interval=None if gain is None else torch.zeros_like(gain),
            kv_gain=None,
            kv_inverse_interval=None,
            correction=None,
        )


def evaluation_plan(
    layout: TokenLayout, decisions: Sequence[Decision], ops: TokenOps, device: torch.device
) -> EvaluationPlan:
    """The chunks' decisions as one row list."""
    kinds = {d.kind for d in decisions}
    active = tuple(d.active for d in decisions)
    if kinds == {DENSE} or kinds == {REUSE}:
        return EvaluationPlan(kinds.pop(), active, whole=True)
    mask = torch.zeros(layout.tokens, dtype=torch.uint8, device=device)
    for rows, decision in zip(layout.chunk_rows(), decisions, strict=True):
        if decision.kind == DENSE:
            mask[rows] = 1
        elif decision.due is not None:
            mask[rows] = decision.due
    rows_, inverse, _ = ops.compact_rows(mask)
    return EvaluationPlan(
        PARTIAL, active, rows_[: sum(active)], inverse[None], whole=PARTIAL not in kinds
    )
