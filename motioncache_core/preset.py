"""What a preset means for one run: its settings for the number of steps, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .session import FEW_STEPS
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

    In a shorter run than the presets were tuned on, warm-up and uniform phase take the same share
    of it, rounded up: as numbers of steps they would leave nothing to reuse
    (`tests/bench/results/short_runs.json`). Longer runs keep the numbers.

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
    share = steps / TUNED_STEPS
    scaled = replace(
        settings,
        warmup_steps=math.ceil(settings.warmup_steps * share),
        uniform_updates=math.ceil(settings.uniform_updates * share),
    )
    why = (
        f"{steps} steps instead of the {TUNED_STEPS} it was tuned on: warmup_steps "
        f"{scaled.warmup_steps} instead of {settings.warmup_steps}, uniform_updates "
        f"{scaled.uniform_updates} instead of {settings.uniform_updates}, the same share of the run"
    )
    return Chosen(scaled, preset, (why,))
