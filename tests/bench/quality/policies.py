"""What the quality bench compares: policies and their sweeps."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

from motioncache_pack.motioncache_core import PRESETS, MotionCacheSettings
from quality.cases import BIDIRECTIONAL, ORDINARY, Case

OURS = PRESETS["motion"]
NONE, CACHED, RANDOM = "none", "cached", "random"
EASY, LAZY = "EasyCache", "LazyCache"
MOTION, PAPER = "motion (ours)", "motion (paper)"
CONTROL = "random (counts of ours)"
PAPERS = "the paper's warm-up"
# shares of the run's tokens
BUDGETS = (0.26, 0.29, 0.32, 0.36, 0.4, 0.44, 0.5, 0.6)
SPARSE_BUDGETS = (0.26, 0.32, 0.4, 0.5, 0.6)
QUICK_BUDGETS = (0.26, 0.4, 0.6)
# reuse thresholds in mean steps' worth of change, from two thirds of the tokens to the floor that
# warm-up and the last step leave
SWEEP = (1.5, 2.2, 3.2, 4.6, 10.0)
QUICK_SWEEP = (1.5, 3.2, 10.0)
# ComfyUI's own caches measure another change; their thresholds are as they are
PEER_SWEEP = (0.025, 0.05, 0.1, 0.2, 0.4)
QUICK_PEER_SWEEP = (0.05, 0.1, 0.3)
# evaluations that are computed in full whatever happens: more than any run has
NEVER_REUSE = 100


@dataclass(frozen=True)
class Job:
    """One run of a clip.

    Attributes:
        kind: NONE, CACHED, RANDOM, EASY or LAZY.
        settings: of the pack's own kinds.
        threshold: of the hosts' caches; else it is in the settings.
    """

    kind: str
    settings: MotionCacheSettings | None = None
    threshold: float = 0.0

    def key(self, case: Case, fingerprint: str) -> str:
        """Names the run: two with the same key have the same result."""
        told = [
            fingerprint, case.mode, case.name, case.seed, case.facts, self.kind, self.threshold,
            None if self.settings is None else self.settings.as_dict(),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]


def whole(mode: str) -> str:
    """The policy that reuses all or nothing: the clip (TeaCache), or, where chunks have noise
    levels of their own, a chunk (FlowCache)."""
    return "step" if mode == ORDINARY else "chunk"


def policies(mode: str) -> dict[str, tuple[str, MotionCacheSettings]]:
    """Kind and settings by name; what is swept is the budget of those that have one, else the
    threshold.

    The published methods reuse residuals as they were, as often as the answer's change allows. One
    of them is the paper's preset without what it tells tokens apart by.
    Whole evaluations with our forecast and our budget are what a rival that forecasts would
    reach.
    """
    name = whole(mode)
    published = MotionCacheSettings(policy=name, warmup_steps=OURS.warmup_steps)
    no_tokens = replace(PRESETS["paper"], policy=name)
    return {
        name: (CACHED, published),
        f"{name} + forecast": (CACHED, replace(OURS, policy=name)),
        PAPER: (CACHED, PRESETS["paper"]),
        f"{name}, {PAPERS}": (CACHED, no_tokens),
        MOTION: (CACHED, OURS),
        CONTROL: (RANDOM, OURS),
    }


def comparisons(mode: str, peers: bool) -> list[tuple[str, str]]:
    """Which policy is held against which."""
    name = whole(mode)
    others = [name, f"{name} + forecast", PAPER, CONTROL]
    others += [EASY, LAZY] if peers else []
    return [*((MOTION, other) for other in others), (PAPER, name), (PAPER, f"{name}, {PAPERS}")]


def grid(case: Case, quick: bool, peers: bool) -> dict[str, list[Job]]:
    """The runs of a clip by policy, each a sweep; the first one is without reuse."""
    jobs = {NONE: [without(case.mode, OURS)]}
    for name, (kind, settings) in policies(case.mode).items():
        jobs[name] = sweep(case, kind, settings, quick)
    if peers and case.inputs is not None:
        for kind in (EASY, LAZY):
            thresholds = QUICK_PEER_SWEEP if quick else PEER_SWEEP
            jobs[kind] = [Job(kind, threshold=t) for t in thresholds]
    return jobs


def without(mode: str, settings: MotionCacheSettings) -> Job:
    """The run that must be the uncached one: the cache at work with these settings, and every
    evaluation computed. Under bidirectional attention a cache at work leaves out the chunks that
    are finished or have not begun, so there it is `reuse_threshold=0`."""
    if mode == BIDIRECTIONAL:
        return Job(NONE, MotionCacheSettings(reuse_threshold=0.0))
    return Job(NONE, replace(settings, warmup_steps=NEVER_REUSE))


def sweep(case: Case, kind: str, settings: MotionCacheSettings, quick: bool) -> list[Job]:
    """A run for each budget, or for each threshold where the settings have no budget."""
    if settings.compute_budget > 0:
        # the control is far from the rest, so that fewer points will do
        budgets = SPARSE_BUDGETS if kind == RANDOM else BUDGETS
        budgets = QUICK_BUDGETS if quick else budgets
        return [Job(kind, replace(settings, compute_budget=budget)) for budget in budgets]
    return [
        Job(kind, replace(settings, reuse_threshold=round(case.unit * times, 6)))
        for times in (QUICK_SWEEP if quick else SWEEP)
    ]
