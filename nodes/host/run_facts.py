"""What ComfyUI knows of a run before it starts, in the core's words."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import comfy.model_management
from torch import Tensor

from ...motioncache_core import CalibratedProfile, ContextWindow, RunFacts, SchedulePart
from ...motioncache_core.common.reasons import Reason, because, code_of
from .memory import memory_facts

# the dimension of a latent (batch, channels, frames, height, width) that holds frames
_FRAMES = 2


def run_facts(
    guider: Any,
    noise: Tensor,
    sigmas: Tensor,
    end_percent: float,
    profile: CalibratedProfile | None,
    declined: Reason | None,
) -> RunFacts:
    """The facts of the run that a guider is about to start.

    Args:
        noise: `(B, C, F, H, W)`.
        sigmas: noise levels of the run, with the one it ends at.
        profile: calibrated distance of the model, where it brings one.
        declined: why the run passes through untouched, where that is known.
    """
    patcher = guider.model_patcher
    sampling = patcher.get_model_object("model_sampling")
    conds = [c for name, c in guider.conds.items() if c and (name != "negative" or guider.cfg != 1)]
    given = [cond for named in conds for cond in named]
    windows, moving = context_windows(guider.model_options, noise, len(sigmas) - 1)
    return RunFacts(
        sigmas=sigmas.tolist(),
        end_sigma=float(sampling.percent_to_sigma(end_percent)) if end_percent < 1 else None,
        branches=alive_together(given, sampling, sigmas.tolist()),
        **memory_facts(patcher.load_device),
        profile=profile,
        part=schedule_part(sampling, sigmas),
        windows=windows,
        declined=declined or moving,
        announced=True,
        stops=(comfy.model_management.InterruptProcessingException,),
    )


def alive_together(
    conds: Sequence[Mapping[str, Any]], sampling: Any, sigmas: Sequence[float]
) -> int:
    """How many conditionings have a state at the same time, at most: those of a step and of the one
    before it, whose states are let go behind it.

    Args:
        conds: of all prompts, each with the part of the schedule that it is for.
        sigmas: noise levels of the run, with the one it ends at.
    """
    spans = [
        (
            float(sampling.percent_to_sigma(cond.get("start_percent") or 0.0)),
            float(sampling.percent_to_sigma(1.0 if (e := cond.get("end_percent")) is None else e)),
        )
        for cond in conds
    ]
    steps = [
        {i for i, (start, end) in enumerate(spans) if end <= sigma <= start}
        for sigma in sigmas[:-1]
    ]
    return max([1, *(len(a | b) for a, b in zip(steps, steps[1:] or steps, strict=False))])


def for_answers(facts: RunFacts) -> RunFacts:
    """The same for a run whose whole evaluations are foretold: only windows that move are in the
    way, as no pass of them comes again."""
    moving = facts.declined if code_of(facts.declined or "") == "windows_move" else None
    return replace(facts, declined=moving)


def schedule_part(sampling: Any, sigmas: Tensor) -> SchedulePart | None:
    """Where the run's noise levels lie in the model's schedule."""
    if len(sigmas) == 0:
        return None
    first, last = float(sigmas[0]), float(sigmas[-1])
    return SchedulePart(_percent(sampling, first), _percent(sampling, last), first, last)


def _percent(sampling: Any, sigma: float) -> float:
    """The inverse of `percent_to_sigma`, which falls from noise to clean, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        if float(sampling.percent_to_sigma(middle)) > sigma:
            low = middle
        else:
            high = middle
    return round((low + high) / 2, 5)


def context_windows(
    model_options: Mapping[str, Any], noise: Tensor, steps: int
) -> tuple[tuple[ContextWindow, ...], Reason | None]:
    """The context windows of every step; none, and a reason, where they differ from step to step
    or cannot be known. None without a reason where the host does not cut the clip."""
    handler = model_options.get("context_handler")
    if handler is None:
        return (), None
    schedule, dim = getattr(handler, "context_schedule", None), getattr(handler, "dim", None)
    length = getattr(handler, "context_length", None)
    if schedule is None or not isinstance(dim, int) or not isinstance(length, int):
        kind = type(handler).__name__
        return (), because("windows_unknown", kind=kind)
    if dim >= noise.ndim or noise.shape[dim] <= length:
        return (), None
    if dim != _FRAMES:
        return (), because("windows_dimension", dim=dim, frames=_FRAMES)
    anchored = bool(getattr(handler, "causal_window_fix", False))
    found = []
    for step in range(max(1, steps)):
        # the handler itself is shared with other runs
        probe = copy.copy(handler)
        probe._step = step
        frames = schedule.func(noise.shape[dim], probe, model_options)
        found.append([_window([int(f) for f in window], anchored) for window in frames])
    if any(windows != found[0] for windows in found):
        return (), because("windows_move", schedule=schedule.name)
    return tuple(found[0]), None


def _window(frames: list[int], anchored: bool) -> ContextWindow:
    anchor = frames[0] - 1
    return ContextWindow(tuple(frames), anchor if anchored and anchor >= 0 else None)


def window_of(options: Mapping[str, Any]) -> ContextWindow | None:
    """The context window that a call of the network is for; None where there is none, or one that
    is not over frames."""
    window = options.get("context_window")
    frames = getattr(window, "index_list", None)
    if frames is None or getattr(window, "dim", None) != _FRAMES:
        return None
    anchor = getattr(window, "causal_anchor_index", None)
    return ContextWindow(
        tuple(int(f) for f in frames), anchor if anchor is not None and anchor >= 0 else None
    )
