"""What a full evaluation leaves behind."""

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core import residuals
from motioncache_pack.motioncache_core.plan import CallPlan, Part, ScopePlan
from motioncache_pack.motioncache_core.state import BranchRows

B, L, C = 3, 7, 4


def plan(*rates):
    """A dense plan: batch row 0 follows the first of two scopes, rows 1 and 2 the second."""
    scopes = [ScopePlan("dense", (L,), inverse_interval=rate, whole=True) for rate in rates]
    return CallPlan("dense", [Part(slice(1), scopes[0]), Part(slice(1, B), scopes[1])], None, L)


def branches(slope=True):
    return BranchRows(
        ("cond", "uncond", "other"),
        1,
        torch.full((B, L, C), float("nan")),
        torch.zeros(B, L, C) if slope else None,
        None,
    )


@pytest.mark.parametrize("slope", [True, False])
def test_the_first_evaluation_teaches_no_slope(slope):
    state, rate = branches(slope), torch.ones(L)
    x, y = torch.randn(B, L, C), torch.randn(B, L, C)
    residuals.store(kernels, plan(rate, rate), state, x, y)
    assert state.filled and torch.equal(state.residual, y - x)
    assert state.slope is None or not state.slope.any()


def test_from_the_second_one_on_every_scope_learns_by_its_own_interval():
    state, rate = branches(), torch.linspace(-2, 3, L)
    rate[2] = 0
    x, y = torch.randn(2, B, L, C), torch.randn(2, B, L, C)
    for i in range(2):
        residuals.store(kernels, plan(rate, None), state, x[i], y[i])
    first, second = y - x
    assert torch.equal(state.residual, second)
    assert torch.equal(state.slope[:1], (second - first)[:1] * rate[:, None])
    assert not state.slope[1:].any()


def test_blocks_may_answer_with_any_strides():
    state, x, y = branches(), torch.randn(B, L, C), torch.randn(B, C, L).mT
    residuals.store(kernels, plan(None, None), state, x, y)
    assert torch.equal(state.residual, y - x)
