"""What a preset means for one run: its settings for the number of steps, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .engine.session import FEW_STEPS
from .settings import MotionCacheSettings

# steps of the runs that the presets were tuned on: tests/bench/results/presets.json
TUNED_STEPS = 24
# the published method stays as it was published
FIXED = ("paper",)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The settings of a run.

    Attributes:
        preset: its name; None where a settings node was connected.
        why: sentences on what differs from the preset as it is written down.
    """

    settings: MotionCacheSettings
    preset: str | None = None
    why: tuple[str, ...] = ()


def resolve(preset: str, steps: int) -> Chosen:
    """A preset for a run of so many steps.

    In a shorter run than the presets were tuned on, warm-up takes the same share of it, rounded
    up: as a number of steps it would leave little to reuse. On the demo model that was closer in
    seven of nine cases (`tests/bench/results/short_runs.json`). Longer runs keep the number. All
    else is counted in updates or in changes of the answer, which a shorter run has larger steps of.

    Args:
        steps: sampling steps; 0 where they are not known.

    Raises:
        SettingsError: there is no such preset.
    """
    settings = MotionCacheSettings.preset(preset)
    if preset in FIXED:
        return Chosen(settings, preset, ("settings as published, whatever the model and the run",))
    if not FEW_STEPS < steps < TUNED_STEPS:
        return Chosen(settings, preset)
    warm_up = math.ceil(settings.warmup_steps * steps / TUNED_STEPS)
    if warm_up == settings.warmup_steps:
        return Chosen(settings, preset)
    why = (
        f"warmup_steps {warm_up} instead of {settings.warmup_steps}, the same share of {steps} "
        f"steps as of the {TUNED_STEPS} that the preset was tuned on"
    )
    return Chosen(replace(settings, warmup_steps=warm_up), preset, (why,))
