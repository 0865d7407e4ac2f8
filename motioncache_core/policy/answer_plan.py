"""Which evaluations of a run are computed, where all others are foretold (ours)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import accumulate, pairwise

from ..sampling.run_facts import RunFacts
from ..sampling.sampler_response import SamplerResponse, shares
from ..settings import MotionCacheSettings
from .answer_ledger import AnswerLedger

# chosen on two of the four models of tests/bench/results/answers.json
SHRINK, LATE = 0.85, 2.0


@dataclass(frozen=True)
class AnswerPlan:
    """A run's evaluations, and what is carried from one to the next.

    Attributes:
        response: of the sampler.
        computed: numbers of the evaluations that are computed.
        protected: how many are computed whatever the budget.
        strength: of the forecast; 0 holds the last answer.
        hindsight: whether what foretold answers missed is paid back.
        clean: whether clean latents are carried in the place of answers `(x - x0) / sigma`, which
            hold the noise that a sampler has added since.
    """

    response: SamplerResponse
    computed: frozenset[int]
    protected: int
    strength: float
    hindsight: bool
    clean: bool

    def ledger(self) -> AnswerLedger:
        """The weights of one pass."""
        response, weights = self.response, None
        if self.hindsight:
            weights = shares(response.clean_response if self.clean else response.response)
        return AnswerLedger(response.places, self.strength, weights)

    @property
    def how(self) -> str:
        """What becomes of the evaluations that are not computed, in words."""
        what = "clean latents" if self.clean else "answers"
        told = f"foretold from {what}" if self.strength > 0 else f"given the last {what}"
        return told + " and made up for in hindsight" * self.hindsight

    def expects(self, evaluation: int, sigma: float, rounding: float) -> bool:
        """Whether the sampler was to make this evaluation at this noise level."""
        if evaluation >= self.response.evaluations:
            return False
        known = self.response.sigmas[evaluation]
        return abs(known - sigma) <= rounding * max(abs(known), abs(sigma))


def answer_plan(
    settings: MotionCacheSettings, run: RunFacts, response: SamplerResponse
) -> AnswerPlan:
    """The plan of a run: `round(compute_budget * N)` of its N evaluations, warm-up, the last one
    and those behind `end_percent` among them; more only where these alone are more."""
    n = response.evaluations
    end = -1.0 if run.end_sigma is None else run.end_sigma
    fixed = {
        k
        for k, sigma in enumerate(response.sigmas)
        if k < settings.warmup_steps or k == n - 1 or sigma <= end
    }
    wanted = round(settings.compute_budget * n)
    rises = response.sigmas[0] < response.sigmas[-1]
    # what was measured for every sampler of the host: tests/bench/results/samplers.json
    forgets = response.forgets
    return AnswerPlan(
        response,
        # unsampling, from clean to noise, is the same run from its end
        frozenset(
            {n - 1 - k for k in placed(n, wanted, {n - 1 - k for k in fixed})}
            if rises
            else placed(n, wanted, fixed)
        ),
        len(fixed),
        strength=0.0 if forgets else settings.forecast,
        hindsight=settings.hindsight and response.one_answer and not forgets,
        clean=response.adds_noise,
    )


def placed(evaluations: int, wanted: int, fixed: Collection[int]) -> set[int]:
    """So many evaluations, the fixed ones among them.

    Their distances fall towards the end: a gap at the share u of the run is `1 - SHRINK * u **
    LATE` of the first one.

    Args:
        evaluations: of the run.
        wanted: how many to choose; the first and the last are always among them.
        fixed: those that are chosen whatever the distances, at the start and at the end.
    """
    start, stop = 0, evaluations - 1
    while start + 1 in fixed:
        start += 1
    while stop - 1 in fixed and stop - 1 > start:
        stop -= 1
    chosen = {start, stop, *fixed}
    # what is computed before and behind takes its part
    gaps = wanted - start - (evaluations - 1 - stop) - 1
    if gaps > 0:
        sizes = [1 - SHRINK * ((i + 0.5) / gaps) ** LATE for i in range(gaps)]
        unit = (stop - start) / sum(sizes)
        chosen |= {round(start + unit * at) for at in accumulate(sizes[:-1])}
        before = max(k for k in chosen if k < stop)
        if gaps > 3 and before not in fixed:
            # the last two are computed: nothing comes that could make up for an error
            chosen = (chosen - {before}) | {stop - 1}
    # rounding may have met one that was there; the largest gap is halved
    while len(chosen) < min(wanted, evaluations):
        ordered = sorted(chosen)
        width, left = max((b - a, a) for a, b in pairwise(ordered))
        chosen.add(left + width // 2)
    return chosen
