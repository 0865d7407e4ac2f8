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


def store(plan: CallPlan, state: BranchRows, x: Tensor, y: Tensor) -> None:
    """Remember the residual of a full evaluation, and its slope."""
    if state.slope is not None and state.filled:
        residual = y - x
        for p in plan.parts:
            if p.plan.inverse_interval is not None:
                change = residual[p.rows] - state.residual[p.rows]
                factor = p.plan.inverse_interval[None, :, None].to(change.dtype)
                # at an unchanged noise level there is nothing to learn a slope from
                state.slope[p.rows] = torch.where(factor == 0, state.slope[p.rows], change * factor)
        state.residual = residual
    else:
        torch.sub(y, x, out=state.residual)
    state.filled = True


def _slope(state: BranchRows, part: Part) -> Tensor | None:
    if state.slope is None or part.plan.gain is None:
        return None
    return state.slope[part.rows]
