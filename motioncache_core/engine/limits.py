"""Runs in which nothing is reused, known before the first step."""

from __future__ import annotations

from ..common.reasons import because
from ..report.trace_recorder import TraceRecorder
from ..sampling.run_facts import RunFacts
from ..sampling.run_settings import FEW_STEPS, LITTLE_REUSE
from ..settings import MotionCacheSettings


def why_off(settings: MotionCacheSettings, run: RunFacts, recorder: TraceRecorder) -> str:
    """Why the whole run reuses nothing, which is recorded; empty where it may."""
    steps = len(run.step_sigmas)
    if run.declined:
        recorder.decline(run.declined)
    elif 0 < steps <= FEW_STEPS:
        recorder.decline(because("few_steps", steps=steps, most=FEW_STEPS))
    elif settings.compute_budget > 0 and not steps:
        recorder.decline(because("budget_without_steps", budget=settings.compute_budget))
    elif settings.reuse_threshold == 0:
        recorder.decline(because("threshold_zero"))
    elif 0 < steps <= LITTLE_REUSE:
        recorder.remark(because("little_reuse", steps=steps, better=LITTLE_REUSE + 1))
    return recorder.trace.reason
