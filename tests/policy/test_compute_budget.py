"""A share of the run that is computed: how much it is, and where in the run."""

import itertools

import pytest
import torch
from motioncache_pack.motioncache_core.demo.sampler import flow_sigmas
from motioncache_pack.motioncache_core.policy.compute_budget import (
    NOISE,
    evaluations_left,
    placed,
    spread,
)
from motioncache_pack.motioncache_core.report.compute_share import compute_share
from motioncache_pack.motioncache_core.sampling.run_facts import RunFacts
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.runs import Run
from motioncache_pack.tests.core.small_wan import TEXT_DIM, TEXT_TOKENS, small_wan


def settings(**given):
    fixed = {"warmup_steps": 4, "uniform_updates": 0, "max_stale_steps": 0, "policy": "step"}
    return MotionCacheSettings(**{**fixed, **given})


def run(given, steps, shift=5.0, levels=None):
    """Run of a small network; it is called at `levels`, or once a step."""
    sigmas = flow_sigmas(steps, shift)
    made = Run(small_wan(), given, sigmas=sigmas, profile=None)
    x, text = torch.randn(1, 16, 4, 8, 8), torch.randn(1, TEXT_TOKENS, TEXT_DIM)
    for sigma in levels or sigmas[:-1]:
        made.call(x, 1000 * sigma, text)
    made.session.close()
    return made


@pytest.mark.parametrize(
    ("budget", "steps", "shift"),
    [(0.3, 20, 1.0), (0.45, 30, 5.0), (0.5, 50, 3.0), (0.7, 20, 1.0), (1.0, 30, 5.0)],
)
def test_whole_evaluations_keep_to_the_budget(budget, steps, shift):
    made = run(settings(compute_budget=budget), steps, shift)
    done = [i for i, kind in enumerate(made.decided) if kind == "dense"]
    assert abs(len(done) - budget * steps) < 1
    assert done[:4] == [0, 1, 2, 3] and done[-1] == steps - 1
    gaps = [b - a for a, b in itertools.pairwise(done[3:-1])]
    if shift == 1.0:
        # all steps remove the same
        assert max(gaps) - min(gaps) <= 1
    else:
        later = gaps[len(gaps) // 2 :]
        assert sum(later) / len(later) <= sum(gaps) / len(gaps)


@pytest.mark.parametrize(("budget", "share"), [(0.35, 0.5), (0.5, 0.25), (0.8, 0.85)])
def test_shares_of_the_tokens_keep_to_it(budget, share):
    given = settings(policy="motion", update_share=share, compute_budget=budget)
    made = run(given, 40)
    assert "partial" in made.decided
    # the last update may be due when the run is over, and rows come in round numbers
    assert compute_share(made.trace) == pytest.approx(budget, abs=0.02 + share / 40)


def test_steps_that_remove_more_noise_get_more():
    noise = [0.01, 0.01, 0.16, 0.16]
    assert placed(noise, 3.0, 10.0) == pytest.approx([0.5, 0.5, 1.0, 1.0])
    assert NOISE == 0.25


def test_a_part_of_a_schedule_ends_where_the_next_one_begins():
    """What another sampler removes is not the last step's."""
    run_of = RunFacts(sigmas=tuple(flow_sigmas(20, 1.0))[:11])
    _, given = spread(settings(compute_budget=0.7), run_of)
    travelled = given.profile.travelled
    each = [b - a for a, b in itertools.pairwise(travelled[1:-3])]
    assert len(each) == 6 and each == pytest.approx([each[0]] * 6) and each[0] > 0


def test_no_step_gets_more_than_there_is_to_compute():
    assert placed([0.01, 0.01, 0.16, 0.16], 3.4, 1.0) == pytest.approx([0.7, 0.7, 1.0, 1.0])
    assert placed([0.01, 0.16, 0.4], 3.0, 1.0) == pytest.approx([1.0] * 3)
    assert placed([0.01, 0.16], 0.0, 1.0) == [0.0, 0.0]
    assert placed([], 0.0, 1.0) == []
    rng = torch.Generator().manual_seed(3)
    for count in (1, 5, 40):
        noise = torch.rand(count, generator=rng, dtype=torch.float64).add(1e-3).tolist()
        for rate in (0.1, 0.6, 0.85, 0.99):
            found = placed(noise, rate * count * 0.85, 0.85)
            assert sum(found) == pytest.approx(rate * count * 0.85)
            assert max(found) <= 0.85 + 1e-9
            order = sorted(range(count), key=lambda i: noise[i])
            assert all(found[a] <= found[b] + 1e-12 for a, b in itertools.pairwise(order))


def test_second_evaluations_within_a_step_are_parts_of_it():
    sigmas = flow_sigmas(24, 1.0)
    halves = [level for a, b in itertools.pairwise(sigmas[:-1]) for level in (a, (a + b) / 2)]
    given = settings(compute_budget=0.5, warmup_steps=8, dense_last=False)
    made = run(given, 24, 1.0, levels=[*halves, sigmas[-2]])
    done = [i for i, kind in enumerate(made.decided) if kind == "dense"]
    # 8 evaluations are 4 steps here; 4 of the other 16 steps, as warm-up is told in evaluations
    assert done[:8] == list(range(8))
    assert {b - a for a, b in itertools.pairwise(done[8:])} == {8}


def test_what_is_left_between_warm_up_and_the_end():
    sigmas = tuple(flow_sigmas(20, 1.0))
    given = settings(compute_budget=0.4)
    assert evaluations_left(given, RunFacts(sigmas=sigmas)) == (15, 3.0)
    # the last quarter is computed: the steps from 0.25, 0.2, 0.15, 0.1 and 0.05
    facts = RunFacts(sigmas=sigmas, end_sigma=0.25)
    assert evaluations_left(given, facts) == (11, -1.0)
    going_on = RunFacts(sigmas=sigmas[:11])
    assert evaluations_left(given, going_on) == (6, 0.0)
    restarted = RunFacts(sigmas=(*sigmas[:15], *sigmas[10:]))
    assert evaluations_left(given, restarted) == (15, 3.0)


def test_a_budget_that_warm_up_takes_is_told_and_computes_what_waited_too_long():
    made = run(settings(compute_budget=0.2, max_stale_steps=5), 20)
    assert any("warm-up and the last step take 5" in str(r) for r in made.trace.remarks)
    waiting = "".join(kind[0] for kind in made.decided)
    assert waiting == "dddd" + "rrrrrd" * 2 + "rrrd"


def test_motion_computes_shares_and_more_of_it_where_that_is_too_little():
    facts = RunFacts(sigmas=tuple(flow_sigmas(20, 1.0)))
    for given, wanted in (((0.4, 0.0), 0.85), ((0.4, 0.3), 0.3), ((0.85, 0.3), 0.8)):
        budget, share = given
        chosen = settings(policy="motion", compute_budget=budget, update_share=share)
        assert spread(chosen, facts)[0].update_share == pytest.approx(wanted)
