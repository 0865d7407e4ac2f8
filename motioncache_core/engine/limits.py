"""Runs and calls in which nothing is reused, known before they start."""

from __future__ import annotations

from ..common.phrases import lowered, phrase
from ..common.reasons import Reason, because
from ..models.adapter import Adapter
from ..policy.compute_budget import evaluations_left
from ..report.trace_recorder import TraceRecorder
from ..sampling.model_call import ModelCall
from ..sampling.run_facts import RunFacts
from ..sampling.run_settings import FEW_STEPS, LITTLE_REUSE
from ..settings import MotionCacheSettings
from .shadow import is_shadowed


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


def decline_reason(adapter: Adapter, call: ModelCall) -> Reason | None:
    """Why a call of a known network has to run untouched; None if it need not."""
    options = call.options
    if options.get("context_window") is not None and call.window is None:
        return because("windows_unknown", kind=phrase("not over frames"))
    patched = adapter.patched(options.get("patches", {}))
    if patched is not None:
        return patched
    for shadow in (*(run.shadow for run in adapter.runs), adapter.side):
        if shadow is not None and is_shadowed(call.network, shadow.name):
            return because("blocks_hidden", name=shadow.name)
    rows, branches = call.rows, len(call.branches)
    if rows % branches:
        return because("uneven_batch", rows=rows, branches=branches)
    for name, why in adapter.beside.items():
        if call.forcing is not None and call.arguments.get(name) is not None:
            return because("extra_tokens", why=why, name=name)
    return adapter.decline(call.arguments, options)


def tokens_lost(why: Reason) -> Reason:
    """That evaluations are whole from here on, and why."""
    return because("tokens_lost", why=why.happened, action=lowered(why.action))


def check_budget(settings: MotionCacheSettings, run: RunFacts, recorder: TraceRecorder) -> None:
    """Remark that a budget is spent before any of it is free to be placed."""
    free, enough = evaluations_left(settings, run)
    if free > 0 and enough <= 0:
        steps = len(set(run.step_sigmas))
        budget = settings.compute_budget
        recorder.remark(because("budget_spent", budget=budget, steps=steps, fixed=steps - free))
