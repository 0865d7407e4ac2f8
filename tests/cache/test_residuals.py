"""What evaluations leave behind, on the model's device and in the host's memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from motioncache_pack import kernels
from motioncache_pack.motioncache_core.cache import residuals
from motioncache_pack.motioncache_core.cache.branches import BranchRows
from motioncache_pack.motioncache_core.cache.correction import correction
from motioncache_pack.motioncache_core.cache.row_update import RowUpdate
from motioncache_pack.motioncache_core.common.token_layout import TokenLayout
from motioncache_pack.motioncache_core.engine.call_plan import CallPlan, Part, row_updates
from motioncache_pack.motioncache_core.policy.chunk_decision import Decision
from motioncache_pack.motioncache_core.policy.evaluation_plan import evaluation_plan
from motioncache_pack.tests.support.assert_close import assert_close

B, L, C = 3, 7, 4


def plan(*rates):
    """A dense plan: batch row 0 follows the first of two scopes, rows 1 and 2 the second."""
    batches = slice(1), slice(1, B)
    return [RowUpdate(b, None, None, rate) for b, rate in zip(batches, rates, strict=True)]


def store(updates, state, x, y):
    """A full evaluation, as the engine makes one."""
    residuals.store(kernels, updates, state, x, y)
    state.filled = True


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
    store(plan(rate, rate), state, x, y)
    assert state.filled and torch.equal(state.residual, y - x)
    assert state.slope is None or not state.slope.any()


def test_from_the_second_one_on_every_scope_learns_by_its_own_interval():
    state, rate = branches(), torch.linspace(-2, 3, L)
    rate[2] = 0
    x, y = torch.randn(2, B, L, C), torch.randn(2, B, L, C)
    for i in range(2):
        store(plan(rate, None), state, x[i], y[i])
    first, second = y - x
    assert torch.equal(state.residual, second)
    assert torch.equal(state.slope[:1], (second - first)[:1] * rate[:, None])
    assert not state.slope[1:].any()


def test_blocks_may_answer_with_any_strides():
    state, x, y = branches(), torch.randn(B, L, C), torch.randn(B, C, L).mT
    store(plan(None, None), state, x, y)
    assert torch.equal(state.residual, y - x)


@given(data=st.data())
@settings(max_examples=40)
def test_residuals_in_the_hosts_memory_are_the_same_bits(data):
    batch, length, width = (data.draw(st.integers(1, n)) for n in (4, 9, 3))
    layout = TokenLayout(length, 1, 1)
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    corrected, tolerance = data.draw(st.booleans()), 1e-4 if dtype == torch.float32 else 5e-2

    def numbers(*shape):
        return torch.randn(shape, generator=rng).to(dtype)

    def a_plan(kind):
        due = torch.randint(2, (length,), generator=rng, dtype=torch.uint8)
        active = {"dense": length, "reuse": 0}.get(kind, int(due.sum()))
        decision = Decision(kind, "motion", active, due if kind == "partial" else None)
        plan = evaluation_plan(layout, [decision], kernels, torch.device("cpu"))
        if forecast:
            plan.gain = torch.randn(length, generator=rng)
            plan.inverse_interval = torch.randn(length, generator=rng).round(decimals=0)
        if corrected and kind == "partial":
            rate = torch.ones(length) if plan.inverse_interval is None else plan.inverse_interval
            fresh = torch.rand(length, generator=rng) < 0.7
            plan.correction = correction(
                layout, plan.chunks, plan.inverse, rate, fresh, 0.8, kernels
            )
        return plan

    forecast, cut = data.draw(st.booleans()), data.draw(st.integers(0, batch - 1))
    states = [
        BranchRows(("c",), batch, torch.zeros(batch, length, width, dtype=dtype), None, None)
        for _ in range(2)
    ]
    for state in states:
        state.slope = torch.zeros_like(state.residual) if forecast else None
    assert states[1].to_host()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(residuals, "PIECE", data.draw(st.integers(1, 64)))
        for kind in ("dense", *data.draw(st.lists(st.sampled_from(["partial", "reuse", "dense"])))):
            ranges = [r for r in (slice(0, cut), slice(cut, batch)) if r.stop > r.start]
            parts = [Part(r, a_plan(kind)) for r in ranges]
            updates = row_updates(CallPlan(kind, parts, None, 0), length, torch.device("cpu"))
            x = numbers(batch, length, width)
            y = numbers(batch, max(p.plan.active for p in parts), width)
            outs = []
            for state in states:
                if kind == "dense":
                    store(updates, state, x, y)
                elif kind == "reuse":
                    outs.append(residuals.reuse(kernels, updates, state, x))
                else:
                    found = residuals.answers(kernels, updates, state, x, y)
                    outs.append(residuals.scatter(kernels, updates, state, x, found))
                    state.filled = True
            pairs = [("residual", *(state.residual for state in states))]
            pairs += [("slope", *(state.slope for state in states))] if forecast else []
            pairs += [("answer", *outs)] if outs else []
            for name, here, there in pairs:
                if corrected:
                    # features of fewer rows at a time are rounded otherwise
                    assert_close(name, here.double(), there.double(), tolerance)
                else:
                    assert torch.equal(here, there)
