"""What kind of run a trace is of: its preset, its part of the schedule, its context windows."""

from __future__ import annotations

from collections import Counter
from typing import Any

from .trace import Trace


def run_lines(trace: Trace) -> list[str]:
    """The same for people, a sentence a line."""
    return [*_choice(trace), *_schedule(trace), *_windows(trace)]


def run_summary(trace: Trace) -> dict[str, Any]:
    """The same as JSON-ready data."""
    part = trace.part
    schedule = None
    if part is not None:
        schedule = {
            "start": round(part.start, 4),
            "end": round(part.end, 4),
            "first_sigma": round(part.first_sigma, 6),
            "last_sigma": round(part.last_sigma, 6),
        }
    return {
        "preset": trace.preset,
        "why": list(trace.why),
        "schedule": schedule,
        "windows": [{"frames": list(w.frames), "anchor": w.anchor} for w in trace.windows],
        "remarks": list(trace.remarks),
    }


def _choice(trace: Trace) -> list[str]:
    named = [] if trace.preset is None else [f"Preset: {trace.preset} ({_effective(trace)})"]
    return named + [f"Chosen: {sentence}" for sentence in trace.why]


def _effective(trace: Trace) -> str:
    often = "compute_budget" if trace.settings.get("compute_budget") else "reuse_threshold"
    names = ("warmup_steps", "uniform_updates", often, "motion_sensitivity", "forecast")
    return ", ".join(f"{n} {trace.settings[n]:g}" for n in names if n in trace.settings)


def _schedule(trace: Trace) -> list[str]:
    part = trace.part
    if part is None or (part.start == 0 and not part.goes_on):
        return []
    words = (
        f"Schedule: {part.start:.0%} to {part.end:.0%} of the model's noise schedule (sigma "
        f"{part.first_sigma:.3f} to {part.last_sigma:.3f})"
    )
    if part.goes_on:
        words += "; noise is left for another sampler, so no last evaluation is protected"
    return [words]


def _windows(trace: Trace) -> list[str]:
    windows = trace.windows
    if not windows:
        return []
    sizes = ", ".join(
        f"{n} of {size} latent frames"
        for size, n in sorted(Counter(len(w.frames) for w in windows).items(), reverse=True)
    )
    anchored = sum(w.anchor is not None for w in windows)
    anchors = f", {anchored} of them with an anchor frame before" if anchored else ""
    return [
        f"Context windows: {sizes}{anchors}, over {trace.clip_frames} latent frames; each has a "
        "state and evaluations of its own"
    ]
