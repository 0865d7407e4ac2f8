"""What is compared: ways to spend a number of evaluations."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from answers.clips import HostClip
from motioncache_pack.motioncache_core import PRESETS, MotionCacheSettings, RunSettings, TraceHandle
from torch import Tensor

OURS = PRESETS["balanced"]
# what is carried between evaluations, with our placement: what each part is worth
METHODS: dict[str, MotionCacheSettings] = {
    "ours": OURS,
    "without hindsight": replace(OURS, hindsight=False),
    "held": replace(OURS, hindsight=False, forecast=0.0),
    # whole evaluations as they were: residuals of the block stack, forecast linearly
    "residual": replace(PRESETS["motion"], policy="chunk"),
}
FEWER = "fewer steps"


def as_planned() -> AbstractContextManager[Any]:
    """While this lasts evaluations are where the schedule puts them, whatever a run shows."""
    plan = importlib.import_module("motioncache_pack.motioncache_core.policy.answer_plan")
    return mock.patch.object(plan.AnswerPlan, "watching", lambda plan: plan)


@dataclass(frozen=True)
class Run:
    """A finished run: its video, and the evaluations of the network that it took."""

    video: Tensor
    evaluations: int


def uncached(clip: HostClip, sampler: str, steps: int) -> Run:
    """Nothing reused."""
    model, calls = clip.counted()
    return Run(clip.sample(model, sampler, steps), len(calls))


def cached(
    clip: HostClip, sampler: str, steps: int, settings: MotionCacheSettings, budget: float
) -> Run:
    """With settings, at a share of the run's evaluations.

    Raises:
        RuntimeError: the share that was asked for is not what was computed.
    """
    attach = importlib.import_module("motioncache_pack.nodes.host.attach").attach
    model, calls = clip.counted()
    handle = TraceHandle()
    model = attach(model, RunSettings(replace(settings, compute_budget=budget)), handle)
    video = clip.sample(model, sampler, steps)
    trace: Any = handle.latest
    if trace.reason:
        raise RuntimeError(f"{sampler}: {trace.reason}")
    if settings.traits.answers:
        wanted = round(budget * len(trace.evaluations))
        if len(calls) != wanted:
            raise RuntimeError(f"{sampler}: {len(calls)} evaluations, {wanted} were asked for")
    return Run(video, sum(e.kind == "dense" for e in trace.evaluations))
