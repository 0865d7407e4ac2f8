"""Residuals of the block stack: stored, scattered into, reused."""

from __future__ import annotations

import torch
from torch import Tensor

from .ops import TokenOps
from .plan import CallPlan, Part, inverse_rows
from .state import BranchRows


def reuse(ops: TokenOps, plan: CallPlan, state: BranchRows, x: Tensor) -> Tensor:
    """`x + r` for all rows of `x` `(B, L, C)`, with the forecast where there is one."""
    out = [
        ops.reuse_residual(x[p.rows], state.residual[p.rows], _slope(state, p), p.plan.gain)
        for p in plan.parts
    ]
    return out[0] if len(out) == 1 else torch.cat(out)


def scatter(ops: TokenOps, plan: CallPlan, state: BranchRows, x: Tensor, y: Tensor) -> Tensor:
    """Full-length output `(B, L, C)` from the active rows' `y` `(B, n, C)`.

    Active rows' residuals (and slopes) are updated; the others are reused.
    """
    out = []
    for p in plan.parts:
        slope = _slope(state, p)
        out.append(
            ops.scatter_residual(
                x[p.rows],
                y[p.rows],
                inverse_rows(p, x.shape[1], x.device),
                state.residual[p.rows],
                slope,
                None if slope is None else p.plan.gain,
                None if slope is None else p.plan.inverse_interval,
            )
        )
    state.filled = True
    return out[0] if len(out) == 1 else torch.cat(out)


def store(ops: TokenOps, plan: CallPlan, state: BranchRows, x: Tensor, y: Tensor) -> None:
    """Remember the residual of a full evaluation, and its slope from the second one on."""
    y = y.contiguous()
    for p in plan.parts:
        rate = p.plan.inverse_interval
        slope = None if state.slope is None or rate is None or not state.filled else state.slope
        ops.store_residual(
            x[p.rows],
            y[p.rows],
            state.residual[p.rows],
            None if slope is None else slope[p.rows],
            None if slope is None else rate,
        )
    state.filled = True


def _slope(state: BranchRows, part: Part) -> Tensor | None:
    if state.slope is None or part.plan.gain is None:
        return None
    return state.slope[part.rows]
