"""The budget that is asked for is the budget that is spent."""

import itertools
from dataclasses import replace

import pytest
from motioncache_pack.motioncache_core import PRESETS, RunFacts
from motioncache_pack.motioncache_core.policy.answer_plan import answer_plan, placed, start_weight
from motioncache_pack.motioncache_core.sampling.sampler_response import euler, rehearse
from motioncache_pack.tests.sampling.test_sampler_response import SIGMAS, renoising

OURS = PRESETS["balanced"]


def levels(steps):
    return tuple(1 - k / steps for k in range(steps + 1))


@pytest.mark.parametrize("steps", [9, 12, 20, 24, 50])
@pytest.mark.parametrize("budget", [0.14, 0.24, 0.3, 0.4, 0.55, 0.9, 1.0])
def test_a_share_is_a_number_of_evaluations(steps, budget):
    response = euler(levels(steps))
    plan = answer_plan(
        replace(OURS, compute_budget=budget), RunFacts(sigmas=levels(steps)), response
    )
    # the first and the last at the least
    assert len(plan.computed) == max(2, round(budget * steps))
    assert {0, steps - 1} <= plan.computed <= set(range(steps))


def test_warm_up_and_protected_evaluations_are_part_of_it():
    sigmas = levels(20)
    run = RunFacts(sigmas=sigmas, end_sigma=sigmas[16])
    plan = answer_plan(replace(OURS, warmup_steps=3), run, euler(sigmas))
    assert {0, 1, 2, 16, 17, 18, 19} <= plan.computed
    assert len(plan.computed) == 8
    assert plan.fixed == {0, 1, 2, 16, 17, 18, 19}


@pytest.mark.parametrize("wanted", range(2, 25))
@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0])
def test_placement_is_dense_at_both_ends(wanted, shift):
    sigmas = [shift * u / (1 + (shift - 1) * u) for u in levels(24)[:-1]]
    chosen = sorted(placed(sigmas, wanted, {0, 23}))
    assert len(chosen) == wanted
    assert {0, 23} <= set(chosen)
    if wanted >= 4:
        assert 22 in chosen
    if 6 <= wanted <= 12:
        gaps = [b - a for a, b in itertools.pairwise(chosen)]
        assert gaps[0] <= max(gaps)
        assert gaps[-2] <= max(gaps)


def test_a_shift_moves_evaluations_to_where_the_noise_goes():
    low, high = (
        sorted(placed([s * u / (1 + (s - 1) * u) for u in levels(24)[:-1]], 10, {0, 23}))
        for s in (3.0, 8.0)
    )
    # more steps at high noise, each of them shorter
    assert low[1] <= high[1]
    assert sum(low) < sum(high)


def test_noise_levels_above_one_are_those_of_a_flow():
    flow = [0.9, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1, 0.05]
    scaled = [s / (1 - s) for s in flow]
    assert placed(flow, 5, {0, 7}) == placed(scaled, 5, {0, 7})


def test_unsampling_is_placed_from_its_end():
    sigmas = levels(20)[::-1][1:]
    plan = answer_plan(OURS, RunFacts(sigmas=(*sigmas, 1.0)), euler((*sigmas, 1.0)))
    assert {0, 1, len(sigmas) - 1} <= plan.computed
    assert len(plan.computed) == round(0.4 * len(sigmas))


def test_equal_levels_at_the_end_divide_by_nothing():
    assert len(placed([0.9, 0.5, 0.2, 0.2, 0.2, 0.0, 0.0], 5, {0, 6})) == 5


def test_what_noise_adds_is_carried_as_clean_latents():
    plan = answer_plan(OURS, RunFacts(sigmas=SIGMAS), rehearse(renoising, SIGMAS))
    assert plan.clean
    assert plan.strength == 0
    assert not plan.hindsight
    assert "given the last clean latents" in plan.how


def test_answers_that_are_taken_apart_are_held():
    response = replace(euler(levels(20)), one_answer=False)
    plan = answer_plan(OURS, RunFacts(sigmas=levels(20)), response)
    assert plan.strength == 0
    assert not plan.hindsight


def test_a_plan_knows_where_the_sampler_is():
    plan = answer_plan(OURS, RunFacts(sigmas=levels(10)), euler(levels(10)))
    assert plan.expects(3, 0.7, 1e-3)
    assert not plan.expects(3, 0.6, 1e-3)
    assert not plan.expects(10, 0.0, 1e-3)


def shifted(steps, shift=5.0):
    return tuple(shift * u / (1 + (shift - 1) * u) for u in levels(steps))


@pytest.mark.parametrize("steps", [20, 24, 50])
@pytest.mark.parametrize("budget", [0.3, 0.4, 0.5])
def test_the_speed_of_the_start_moves_evaluations(steps, budget):
    sigmas = shifted(steps)
    static = answer_plan(
        replace(OURS, compute_budget=budget), RunFacts(sigmas=sigmas), euler(sigmas)
    )
    plan = static.watching()
    seen = plan.watched
    assert seen == sorted(plan.computed)[1] <= sorted(static.computed)[1]
    calmer, calm, even, lively = (
        plan.adapted(speed * (1 - sigmas[seen])) for speed in (0.5, 1.5, 3.0, 9.0)
    )
    for moved in (calmer, calm, even, lively):
        assert moved.watched is None
        assert len(moved.computed) == len(plan.computed)
        assert {0, seen, steps - 2, steps - 1} <= moved.computed
        assert not any(0 < k < seen for k in moved.computed)
    sums = [sum(p.computed) for p in (lively, even, calm, calmer)]
    assert sums == sorted(set(sums))
    assert "changed by 12.3% only" in calm.moved(0.123)
    assert "changed by 12.3% already" in lively.moved(0.123)


@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("steps", [20, 50])
def test_the_speed_of_a_run_depends_on_neither_steps_nor_shift(steps, shift):
    sigmas = shifted(steps, shift)
    plan = answer_plan(OURS, RunFacts(sigmas=sigmas), euler(sigmas)).watching()
    moved = plan.adapted(1.5 * (1 - sigmas[plan.watched]))
    assert moved.start_weight == start_weight(1.5) == 0.25


def test_below_a_hundredth_of_the_noise_answers_differ_by_rounding():
    sigmas = (1.0, *(1 - 1e-4 * k for k in range(1, 12)), *levels(12)[1:])
    plan = answer_plan(OURS, RunFacts(sigmas=sigmas), euler(sigmas)).watching()
    assert 1 - sigmas[plan.watched] < 2e-3
    assert plan.adapted(0.01).start_weight == start_weight(1.0)


def test_an_answer_that_stands_still_or_has_no_number():
    plan = answer_plan(OURS, RunFacts(sigmas=shifted(24)), euler(shifted(24))).watching()
    assert plan.adapted(0.0).start_weight == 2.0**-5
    for nothing in (float("nan"), float("inf")):
        assert plan.adapted(nothing).start_weight == 1


def test_plans_that_stay():
    response = euler(shifted(24))

    def watched(response=response, **changed):
        settings = replace(OURS, **changed)
        return answer_plan(settings, RunFacts(sigmas=response.sigmas), response).watching().watched

    assert watched() is not None
    assert watched(replace(response, adds_noise=True)) is None
    assert watched(replace(response, one_answer=False)) is None
    # nothing is left to place
    for budget in (1.0, 0.01):
        assert watched(compute_budget=budget) is None
    assert watched(replace(response, places=tuple(k // 2 for k in range(24)))) is None
    # levels that are no flow's
    assert watched(euler(tuple(80.0 * u for u in shifted(24)))) is None


@pytest.mark.parametrize("steps", [11, 16, 24])
def test_the_last_two_stay_and_no_third_is_put_before_them(steps):
    sigmas = shifted(steps)
    for wanted in range(5, steps // 2):
        settings = replace(OURS, compute_budget=wanted / steps)
        plan = answer_plan(settings, RunFacts(sigmas=sigmas), euler(sigmas)).watching()
        assert plan.watched is not None
        moved = plan.adapted(1.2 * (1 - sigmas[plan.watched])).computed
        assert {steps - 2, steps - 1} <= moved
        if wanted == 5:
            assert steps - 3 not in moved
