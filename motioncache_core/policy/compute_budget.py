"""Computing a given share of a run, spread over its steps (ours)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..sampling.run_facts import RunFacts
from ..settings import MotionCacheSettings
from .distance import CalibratedProfile

# of the tokens, where a partial evaluation has no share of its own (chosen on the demo model):
# few are left out, so that most keys and values are new, and correct the forecast of the others
SHARE = 0.85
# how much a step's noise counts for where evaluations are placed: 0 spaces them evenly over the
# steps, 1 evenly over the noise (chosen on the demo model)
NOISE = 0.25


@dataclass(frozen=True)
class BudgetSteps(CalibratedProfile):
    """Distance by which a budget's evaluations fall due; a part of a step is that part."""

    @property
    def name(self) -> str:
        return f"steps ({self.model})"


def evaluations_left(settings: MotionCacheSettings, run: RunFacts) -> tuple[int, float]:
    """Steps that are not computed in full whatever happens, and for how many of them the budget
    is enough. Steps start from noise levels; equal ones are one."""
    levels = set(run.step_sigmas)
    ends = [s for s in (run.end_sigma, run.last_sigma if settings.dense_last else None) if s]
    protected = sum(any(s <= end for end in ends) for s in levels)
    free = max(0, len(levels) - settings.warmup_steps - protected)
    fixed = len(levels) - free
    return free, min(float(free), settings.compute_budget * len(levels) - fixed)


def spread(settings: MotionCacheSettings, run: RunFacts) -> tuple[MotionCacheSettings, RunFacts]:
    """Settings and run, with a distance that reaches `reuse_threshold` as often as
    `compute_budget` allows; as they are where there is no budget.

    Args:
        run: its noise levels have to be known.
    """
    if settings.compute_budget == 0:
        return settings, run
    free, enough = evaluations_left(settings, run)
    rate = max(0.0, enough) / max(1, free)
    # more than one share a step is not to be had
    share = max(settings.update_share or SHARE, rate)
    levels = sorted({0.0, *run.step_sigmas})
    if len(levels) < 2:
        raise ValueError("a budget needs the noise levels of the run")
    # by step; what is due at a step has added up since the step before it
    due = [rate] * (len(levels) - 1)
    between = slice(settings.warmup_steps, settings.warmup_steps + free)
    most = share if settings.traits.per_token else 1.0
    due[between] = placed(_noise(run)[between], max(0.0, enough), most)
    travelled = itertools.accumulate(reversed((*due[1:], rate)), initial=0.0)
    told = f"compute_budget {settings.compute_budget:g}"
    profile = BudgetSteps(
        told, tuple(levels), tuple(settings.reuse_threshold * t for t in travelled)
    )
    return replace(settings, update_share=share), replace(run, profile=profile)


def placed(noise: Sequence[float], total: float, most: float) -> list[float]:
    """Evaluations for each step: `total` in all and at most `most`, else as `noise ** NOISE`
    (ours).

    What a reused step does wrong counts by the noise that it removes, so that steps in which much
    is removed should have fresh residuals; but residuals change most where it is little.
    """
    weights = [n**NOISE for n in noise]
    full: set[int] = set()
    while True:
        open_ = [i for i in range(len(weights)) if i not in full]
        left = total - most * len(full)
        scale = left / sum(weights[i] for i in open_) if open_ else 0.0
        over = {i for i in open_ if scale * weights[i] > most}
        if not over:
            return [most if i in full else scale * w for i, w in enumerate(weights)]
        full |= over


def _noise(run: RunFacts) -> list[float]:
    """What each step of the schedule removes, in units of sigma."""
    starts = sorted(set(run.step_sigmas), reverse=True)
    # the part of a schedule that another sampler finishes ends above 0
    end = min(max(0.0, run.sigmas[-1]), starts[-1])
    return [a - b for a, b in itertools.pairwise((*starts, end))]
