"""What a run makes of the settings that were chosen for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..common.phrases import phrase
from ..settings import MotionCacheSettings

# at this many steps or fewer warm-up and the last step leave nothing to reuse
FEW_STEPS = 8
# up to this many they leave little
LITTLE_REUSE = 14
# steps of the runs that the presets were tuned on: tests/bench/results/presets.json
TUNED_STEPS = 24
# the published method stays as it was published
FIXED = ("paper",)


@dataclass(frozen=True, slots=True)
class RunSettings:
    """The settings of a run.

    Attributes:
        preset: its name; None where a settings node was connected.
        why: sentences on what differs from the preset as it is written down.
    """

    settings: MotionCacheSettings
    preset: str | None = None
    why: tuple[str, ...] = ()


def settings_for_run(preset: str, steps: int) -> RunSettings:
    """A preset for a run of so many steps.

    In a shorter run than the presets were tuned on, warm-up takes the same share of it, rounded
    up: as a number of steps it would leave little to reuse. On the demo model that was closer in
    seven of nine cases (`tests/bench/results/short_runs.json`). Longer runs keep the number. All
    else is counted in updates or in changes of the answer, which a shorter run has larger steps of.

    Raises:
        SettingsError: there is no such preset.
    """
    settings = MotionCacheSettings.preset(preset)
    if preset in FIXED:
        why = phrase("settings as published, whatever the model and the run")
        return RunSettings(settings, preset, (why,))
    if not FEW_STEPS < steps < TUNED_STEPS or settings.reuse_threshold == 0:
        return RunSettings(settings, preset)
    warm_up = math.ceil(settings.warmup_steps * steps / TUNED_STEPS)
    if warm_up == settings.warmup_steps:
        return RunSettings(settings, preset)
    why = phrase(
        "warmup_steps {now} instead of {before}, the same share of {steps} steps as of the {tuned} "
        "that the preset was tuned on",
        now=warm_up,
        before=settings.warmup_steps,
        steps=steps,
        tuned=TUNED_STEPS,
    )
    return RunSettings(replace(settings, warmup_steps=warm_up), preset, (why,))
