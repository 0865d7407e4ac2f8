"""Hindsight: the sampler goes on from the latents of a run that had known better."""

import numpy as np
import pytest
from motioncache_pack.motioncache_core.policy.answer_forecast import forecast, interpolation
from motioncache_pack.motioncache_core.policy.answer_ledger import KEPT, AnswerLedger
from motioncache_pack.motioncache_core.sampling.sampler_response import rehearse, shares
from motioncache_pack.tests.sampling.test_sampler_response import adams, ancestral, heun

N = 12
SIGMAS = tuple((1 - k / N) ** 1.3 for k in range(N + 1))


@pytest.fixture(autouse=True)
def schedule(monkeypatch):
    for sampler in (adams, heun, ancestral):
        monkeypatch.setitem(sampler.__globals__, "SIGMAS", SIGMAS)


def told(ledger, computed, answers):
    """What a pass of these answers tells the sampler, and what the ledger's slots hold."""
    slots, out = np.zeros(KEPT), []
    for k, d in enumerate(answers):
        if k in computed:
            taken = ledger.store(k)
            out.append(d + float(np.dot(taken.weights, slots)) + taken.own * d)
            slots[taken.slot] = d
        else:
            out.append(float(np.dot(ledger.reuse(k), slots)))
    return np.array(out)


def better(places, computed, answers):
    """The answers as they are known at the end: computed, or interpolated between the last two
    computed before and the next one; written without the ledger."""
    found = np.array(answers, dtype=float)
    for k in range(len(answers)):
        if k in computed:
            continue
        before = [j for j in sorted(computed) if j < k][-2:]
        after = min((j for j in computed if j > k), default=None)
        if after is None:
            return found, k
        points = [*before, after]
        fitted = np.polyfit(
            [places[j] for j in points], [answers[j] for j in points], len(points) - 1
        )
        found[k] = np.polyval(fitted, places[k])
    return found, len(answers)


@pytest.mark.parametrize("sampler", [adams, ancestral])
@pytest.mark.parametrize("computed", [{0, 3, 5}, {0, 1, 4, 5}, {0, 2, 5, 8, 9, 11}])
def test_the_next_latents_are_those_of_the_better_answers(sampler, computed):
    response = rehearse(sampler, SIGMAS)
    last = max(computed)
    rng = np.random.default_rng(1)
    # as long as no answer has to go, they may be any numbers; then those of a parabola
    free = len(computed) <= KEPT + 1
    answers = rng.normal(size=last + 1) if free else np.polyval([0.3, -2.0, 1.0], range(last + 1))
    ledger = AnswerLedger(response.places, 1.0, shares(response.response))
    given = told(ledger, computed, answers)
    wanted, _ = better(response.places, computed, answers)
    row = response.response[last + 1, : last + 1]
    assert row @ given == pytest.approx(row @ wanted, rel=1e-6, abs=1e-9)


def test_both_stages_of_a_step_are_set_right():
    response = rehearse(heun, SIGMAS)
    computed = {0, 1, 5, 6}
    answers = np.random.default_rng(2).normal(size=7)
    answers[1::2] = answers[2::2]
    given = told(AnswerLedger(response.places, 1.0, shares(response.response)), computed, answers)
    plain = told(AnswerLedger(response.places, 1.0, None), computed, answers)
    wanted, _ = better(response.places, computed, answers)
    row = response.response[7, :7]
    assert row @ given == pytest.approx(row @ wanted, rel=1e-6)
    assert abs(row @ plain - row @ wanted) > 1e-3


def test_nothing_is_owed_where_everything_is_computed():
    response = rehearse(adams, SIGMAS)
    ledger = AnswerLedger(response.places, 1.0, shares(response.response))
    assert not any(ledger.store(k).pays for k in range(N))


def test_answers_on_a_parabola_are_foretold_to_the_letter_half_way():
    places = (0.0, 3.0, 5.0)
    truth = np.polyval([0.5, -1.0, 2.0], places)
    assert interpolation(places, 6.0) @ truth == pytest.approx(np.polyval([0.5, -1.0, 2.0], 6.0))
    line = truth[2] + (truth[2] - truth[1]) / 2
    assert forecast(places, 6.0, 1.0) @ truth == pytest.approx(
        (np.polyval([0.5, -1.0, 2.0], 6.0) + line) / 2
    )


@pytest.mark.parametrize("places", [(0.0,), (0.0, 2.0), (0.0, 2.0, 3.0)])
def test_strength_zero_holds(places):
    assert forecast(places, 4.0, 0.0).tolist() == [0.0] * (len(places) - 1) + [1.0]
