"""Computing a given share of a run, evenly over its steps (ours)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .call import RunFacts
from .distance import CalibratedProfile
from .settings import MotionCacheSettings

# of the tokens, where a partial evaluation has no share of its own (measured on the demo model):
# few are left out, so that most keys and values are new, but more where chunks have noise levels of
# their own
SHARE, FORCING_SHARE = 0.85, 0.6


@dataclass(frozen=True)
class EvenSteps(CalibratedProfile):
    """Every step of the schedule is as far as every other one; a part of a step is that part."""

    @property
    def name(self) -> str:
        return f"even steps ({self.model})"


def evaluations_left(settings: MotionCacheSettings, run: RunFacts) -> tuple[int, float]:
    """Steps that are not computed in full whatever happens, and for how many of them the budget
    is enough. Steps start from noise levels; equal ones are one."""
    levels = set(run.step_sigmas)
    ends = [s for s in (run.end_sigma, run.last_sigma if settings.dense_last else None) if s]
    protected = sum(any(s <= end for end in ends) for s in levels)
    free = max(0, len(levels) - settings.warmup_steps - protected)
    fixed = len(levels) - free
    return free, min(float(free), settings.compute_budget * len(levels) - fixed)


def spread(
    settings: MotionCacheSettings, run: RunFacts, forcing: bool = False
) -> tuple[MotionCacheSettings, RunFacts]:
    """Settings and run, with a distance that reaches `reuse_threshold` as often as
    `compute_budget` allows; as they are where there is no budget.

    Args:
        run: its noise levels have to be known.
        forcing: whether chunks have noise levels of their own.
    """
    if settings.compute_budget == 0:
        return settings, run
    free, enough = evaluations_left(settings, run)
    rate = max(0.0, enough) / max(1, free)
    # more than one share a step is not to be had
    share = max(settings.update_share or (FORCING_SHARE if forcing else SHARE), rate)
    step = settings.reuse_threshold * rate
    levels = tuple(sorted({0.0, *run.step_sigmas}))
    if len(levels) < 2:
        raise ValueError("a budget needs the noise levels of the run")
    travelled = tuple(step * i for i in range(len(levels)))
    told = f"compute_budget {settings.compute_budget:g}"
    run = replace(run, profile=EvenSteps(told, levels, travelled))
    return replace(settings, update_share=share), run
