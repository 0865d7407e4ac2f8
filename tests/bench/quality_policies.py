"""What the quality bench compares: policies and their sweeps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from common import load_pack

load_pack()

from motioncache_pack.motioncache_core import PRESETS, MotionCacheSettings  # noqa: E402
from quality_cases import ORDINARY, Case  # noqa: E402

OURS = PRESETS["balanced"]
# the best known way to compute tokens in parts, not a preset yet: half of them at a time, those
# first whose residual changes fastest
SHARES = replace(
    OURS, forecast=1.0, kv_forecast=0.5, motion_source="residual", motion_sensitivity=0.6,
    update_share=0.5, uniform_updates=0, max_stale_steps=16,
)  # fmt: skip
NONE, CACHED, RANDOM = "none", "cached", "random"
EASY, LAZY = "EasyCache", "LazyCache"
MOTION, PAPER = "motion (ours)", "motion (paper)"
CONTROL = "random (counts of ours)"
# reuse thresholds in mean steps' worth of change, from two thirds of the tokens to the floor that
# warm-up and the last step leave
SWEEP = (1.0, 1.5, 2.2, 3.2, 4.6, 7.0, 13.0)
QUICK_SWEEP = (1.5, 2.2, 3.2, 7.0, 13.0)
# ComfyUI's own caches measure another change; their thresholds are as they are
PEER_SWEEP = (0.02, 0.035, 0.05, 0.1, 0.2, 0.4)
QUICK_PEER_SWEEP = (0.02, 0.05, 0.1, 0.4)
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
    """Kind and settings by name; the threshold is the sweep's.

    Warm-up, last step and staleness cap are ours but for the paper's policy, so that rows differ in
    what they reuse and in nothing else.
    """
    name = whole(mode)
    return {
        name: (CACHED, replace(OURS, policy=name, forecast=0.0)),
        f"{name} + forecast": (CACHED, replace(OURS, policy=name)),
        PAPER: (CACHED, PRESETS["paper"]),
        MOTION: (CACHED, OURS),
        CONTROL: (RANDOM, OURS),
    }


def comparisons(mode: str, peers: bool) -> list[tuple[str, str]]:
    """Which policy is held against which."""
    name = whole(mode)
    others = [name, f"{name} + forecast", PAPER, CONTROL]
    others += [EASY, LAZY] if peers else []
    return [*((MOTION, other) for other in others), (PAPER, name)]


def grid(case: Case, quick: bool, peers: bool) -> dict[str, list[Job]]:
    """The runs of a clip by policy, each a sweep; the first one is without reuse."""
    jobs = {NONE: [never(OURS)]}
    for name, (kind, settings) in policies(case.mode).items():
        jobs[name] = sweep(case, kind, settings, QUICK_SWEEP if quick else SWEEP)
    if peers and case.inputs is not None:
        for kind in (EASY, LAZY):
            thresholds = QUICK_PEER_SWEEP if quick else PEER_SWEEP
            jobs[kind] = [Job(kind, threshold=t) for t in thresholds]
    return jobs


def never(settings: MotionCacheSettings) -> Job:
    """The cache at work, and every evaluation computed."""
    return Job(NONE, replace(settings, warmup_steps=NEVER_REUSE))


def sweep(
    case: Case, kind: str, settings: MotionCacheSettings, worth: Sequence[float]
) -> list[Job]:
    """A run for each threshold."""
    return [
        Job(kind, replace(settings, reuse_threshold=round(case.unit * times, 6))) for times in worth
    ]
