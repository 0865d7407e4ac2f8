"""Which evaluations of a run are computed, where all others are foretold (ours)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ..common.phrases import phrase
from ..sampling.run_facts import RunFacts
from ..sampling.sampler_response import SamplerResponse, shares
from ..settings import MotionCacheSettings
from .answer_forecast import Weights
from .answer_ledger import AnswerLedger

# tuned on two of the models of tests/bench/results/answers.json; that it is the log of the
# signal-to-noise ratio which is spread over was decided after a look at a third
POWER, EDGE = 0.75, 0.01
# how dense a start is placed beside the end, by the speed of its answers: tuned on the same two
SPEED, SPEED_POWER = 0.08, 2.5
# of the powers of two that it is rounded to, so that another device hardly ever has another plan
CALMEST, LIVELIEST = 1 / 32, 8.0


@dataclass(frozen=True)
class AnswerPlan:
    """A run's evaluations, and what is carried from one to the next.

    Attributes:
        response: of the sampler.
        computed: numbers of the evaluations that are computed.
        fixed: those that are computed whatever the budget.
        start_weight: how dense the start is placed beside the end.
        watched: the evaluation whose answer tells where those behind it go, see `adapted`; None
            where the plan stays as it is.
        strength: of the forecast; 0 holds the last answer.
        hindsight: whether what foretold answers missed is paid back.
        clean: whether clean latents are carried in the place of answers `(x - x0) / sigma`, which
            hold the noise that a sampler has added since.
    """

    response: SamplerResponse
    computed: frozenset[int]
    fixed: frozenset[int]
    strength: float
    hindsight: bool
    clean: bool
    start_weight: float = 1.0
    watched: int | None = None

    def ledger(self) -> AnswerLedger:
        """The weights of one pass."""
        response, weights = self.response, None
        if self.hindsight:
            weights = shares(response.clean_response if self.clean else response.response)
        return AnswerLedger(response.places, self.strength, weights)

    @property
    def how(self) -> str:
        """What becomes of the evaluations that are not computed, in words."""
        what = phrase("clean latents") if self.clean else phrase("answers")
        told = (
            phrase("foretold from {what}", what=what)
            if self.strength > 0
            else phrase("given the last {what}", what=what)
        )
        return phrase("{told} and made up for in hindsight", told=told) if self.hindsight else told

    def watching(self) -> AnswerPlan:
        """The plan of a run that shows at its second computed evaluation where the others go, see
        `adapted`; this one where nothing is left to place, or answers would not tell (ours).

        The second comes as early as a lively start needs it.
        """
        response, sigmas = self.response, self.response.sigmas
        # with several stages a step the same evaluations do other things, and were no closer
        one_a_step = all(b - a == 1 for a, b in pairwise(response.places))
        # with levels above 1 answers are of the noise alone at the start
        falls = 1 >= sigmas[0] > sigmas[-1]
        # noise that a sampler has added is a part of what its answers change by
        if response.adds_noise or not response.one_answer or not (falls and one_a_step):
            return self
        computed = placed(sigmas, len(self.computed), self.fixed, LIVELIEST)
        second, *rest = sorted(computed)[1:]
        last = response.evaluations - 2
        if len(computed) == len(sigmas) or all(k >= last or k in self.fixed for k in rest):
            return self
        return replace(self, computed=frozenset(computed), start_weight=LIVELIEST, watched=second)

    def adapted(self, change: float) -> AnswerPlan:
        """The plan once the watched evaluation is computed: after a calm start those that are left
        go towards the end, after a lively one towards the start, as many in all (ours).

        Models that are shown where things are (a control video, tracks) give nearly the answer of
        the end at once, and what counts are the last steps; others decide on it in the first ones.
        How fast an answer changes as the noise goes tells them apart whatever the schedule.

        Args:
            change: how much the answer changed since the evaluation computed before, relative; not
                a number where nobody can tell, and nothing is moved.
        """
        assert self.watched is not None
        sigmas, weight = self.response.sigmas, 1.0
        if math.isfinite(change):
            # below a hundredth of the noise it is rounding that answers differ by
            gone = max(EDGE, sigmas[min(self.computed)] - sigmas[self.watched])
            weight = start_weight(change / gone)
        early = {k for k in self.computed if k <= self.watched}
        computed = placed(sigmas, len(self.computed), self.fixed | early, weight, self.watched)
        return replace(self, computed=frozenset(computed), start_weight=weight, watched=None)

    def moved(self, change: float) -> str:
        """Where evaluations went, in words."""
        if self.start_weight > 1:
            return phrase(
                "the answer changed by {change:.1%} already up to the second of them, so more of "
                "them are computed at the start",
                change=change,
            )
        return phrase(
            "the answer changed by {change:.1%} only up to the second of them, so more of them are "
            "computed towards the end",
            change=change,
        )

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
    wanted, sigmas = round(settings.compute_budget * n), response.sigmas
    if sigmas[0] < sigmas[-1]:
        # unsampling, from clean to noise, is the same run from its end
        mirrored = placed(sigmas[::-1], wanted, {n - 1 - k for k in fixed})
        computed = {n - 1 - k for k in mirrored}
    else:
        computed = placed(sigmas, wanted, fixed)
    # what was measured for every sampler of the host: tests/bench/results/answers.json
    forgets = response.forgets
    held = forgets or not response.one_answer
    return AnswerPlan(
        response,
        frozenset(computed),
        frozenset(fixed),
        strength=0.0 if held else settings.forecast,
        hindsight=settings.hindsight and not held,
        clean=response.adds_noise,
    )


def start_weight(speed: float) -> float:
    """How dense a run's start is placed beside its end: a power of two.

    Args:
        speed: how much the answer changes for a noise level less by 1, relative, at the start.
    """
    weight = min(LIVELIEST, max(CALMEST, SPEED * speed**SPEED_POWER))
    return float(2.0 ** round(math.log2(weight)))


def placed(
    sigmas: Sequence[float],
    wanted: int,
    fixed: Collection[int],
    weight: float = 1.0,
    begin: int = 0,
) -> set[int]:
    """So many evaluations, the fixed ones among them.

    They are spread evenly over a power of how the log of the signal-to-noise ratio changes, which
    is dense at both ends: at the start, where the layout is decided, and at the end, where nothing
    comes that could make up for an error. That is the same for every shift of a schedule. The last
    two are computed.

    Args:
        sigmas: of the run's evaluations.
        wanted: how many to choose; the first and the last are always among them.
        fixed: those that are chosen whatever the spread, at the start and at the end.
        weight: how dense the start is beside the end.
        begin: the one to spread from; those before it are chosen already.
    """
    start, stop = begin, len(sigmas) - 1
    while start + 1 in fixed:
        start += 1
    while stop - 1 in fixed and stop - 1 > start:
        stop -= 1
    chosen = {start, stop, *fixed}
    if wanted - len(chosen) > 1 and stop - 1 > start:
        stop -= 1
        chosen.add(stop)
    # how far each evaluation is from the start
    along = np.concatenate(([0.0], np.cumsum(distances(sigmas, weight)[start:stop])))
    gaps = 1 + wanted - len(chosen)
    for k in range(1, gaps):
        chosen.add(start + int(np.abs(along - along[-1] * k / gaps).argmin()))
    # two of them may have met: the widest gap is halved
    while len(chosen) < min(wanted, len(sigmas)):
        inside = sorted(k for k in chosen if start <= k <= stop)
        open_ = [(a, b) for a, b in pairwise(inside) if b - a > 1]
        if not open_:
            break
        a, b = max(open_, key=lambda ends: along[ends[1] - start] - along[ends[0] - start])
        middle = (along[a - start] + along[b - start]) / 2
        chosen.add(min(range(a + 1, b), key=lambda k: abs(along[k - start] - middle)))
    return chosen


def distances(sigmas: Sequence[float], weight: float = 1.0) -> Weights:
    """`|d log noise| + weight * |d log signal|` to the power `POWER` from each evaluation to the
    next, above 0; with weight 1 that is `|d log SNR|`."""
    levels = np.asarray(sigmas, dtype=np.float64)
    # noise levels above 1 are in units of the clean data: as those of a flow
    flow = levels / (1 + levels) if levels.max(initial=0.0) > 1 else levels
    noise = np.clip(flow, EDGE, 1 - EDGE)
    # toward the end the noise goes by ever larger factors, at the start the signal does
    gone, come = np.abs(np.diff(np.log(noise))), np.abs(np.diff(np.log(1 - noise)))
    far: Weights = (gone + weight * come) ** POWER + 1e-6
    return far
