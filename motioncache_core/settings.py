"""User settings: frozen, validated, with presets. One set of numbers for nodes, tests and docs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .common.errors import SettingsError
from .common.field_checks import check_field

POLICIES = ("motion", "chunk", "step", "random")
MOTION_SOURCES = ("predicted_x0", "features", "residual")
CFG_MASKS = ("shared", "separate")
KV_CACHES = ("auto", "gpu", "gpu_fp8", "cpu", "off")

CHOICES: dict[str, tuple[str, ...]] = {
    "policy": POLICIES,
    "motion_source": MOTION_SOURCES,
    "cfg_mask": CFG_MASKS,
    "kv_cache": KV_CACHES,
}
# inclusive ranges, shared with the widgets
RANGES: dict[str, tuple[float, float]] = {
    "warmup_steps": (1, 100),
    "motion_sensitivity": (0.0, 1.0),
    "reuse_threshold": (0.0, 10.0),
    "uniform_updates": (0, 1000),
    "agreement": (0.0, 0.99),
    "min_update_ratio": (0.0, 1.0),
    "update_share": (0.0, 1.0),
    "compute_budget": (0.0, 1.0),
    "max_stale_steps": (0, 1000),
    "end_percent": (0.0, 1.0),
    "forecast": (0.0, 1.0),
    "kv_forecast": (0.0, 1.0),
    "correction": (0.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class MotionCacheSettings:
    """What to reuse and when.

    Attributes:
        policy: "motion" decides per token, "chunk" per chunk of frames (FlowCache), "step" once
            for the clip (TeaCache); "random" recomputes as many tokens as "motion" would, but
            random ones: the control that motion has to beat.
        warmup_steps: first evaluations that are computed in full. More is safer and slower.
        motion_sensitivity: 0 treats all tokens alike; 1 lets a token that does not move wait for
            ever (until `max_stale_steps`). The paper's floor alpha is 1 minus this. With
            `motion_source` "residual" it is the power of the rate of change: 0.4 is the optimum of
            a forecast.
        reuse_threshold: accumulated change at which a token is recomputed. 0 never reuses.
        uniform_updates: full updates in the uniform phase before tokens are told apart.
        agreement: a position is recomputed in all frames of its chunk when more than this share
            of its frames is due, else in none. 0 lets each token decide for itself.
        min_update_ratio: a partial evaluation smaller than this share of the chunk is put off.
        update_share: above 0, a partial evaluation computes this share of the tokens, the most due
            ones, each time the change has reached this share of `reuse_threshold`: as many tokens
            as whole evaluations would compute. `agreement` and `min_update_ratio` are not used
            then. 0 computes a token when its own change reaches the threshold.
        compute_budget: above 0, the share of the run's tokens that is computed, warm-up and last
            step included: updates are spread over the steps between, a little more where a step
            removes much noise, whatever the model's answer does, and partial ones compute
            `update_share` of the tokens (0.85 where that is 0). `reuse_threshold` does not say how
            often then.
        max_stale_steps: a token is recomputed after this many reuses at the latest, or with
            `update_share` in the first partial evaluation from then on. 0 is no limit.
        end_percent: evaluations after this share of the noise schedule are computed in full.
        motion_source: what tells tokens apart: "residual" (how fast their own residual changed when
            they were last computed), or the difference between neighbouring frames of
            "predicted_x0" (the clean video predicted so far) or of "features" (the last block's
            output, as published).
        forecast: 0 reuses a residual as it was; towards 1 it is extrapolated along its last
            change, damped by how far back that is.
        kv_forecast: the same for the keys and values of tokens that a partial evaluation does not
            compute; costs as much memory as these.
        correction: 0 leaves the forecast of a token that a partial evaluation does not compute as
            it is; towards 1 what the forecast missed at computed tokens near it and like it is
            added (ours).
        cfg_mask: "shared" takes one decision for all conditioning branches, "separate" one each.
        kv_cache: where keys and values for partial evaluations live: "gpu" on the model's device,
            "gpu_fp8" there in half the bytes, "cpu" in the host's memory, "off" nowhere (whole
            chunks are reused or computed), "auto" picks.
        verbose: log every decision.
        dense_last: compute the last evaluation in full. The published code does not.
        clamp_distance: read a negative distance (outside a polynomial's range) as 0.
    """

    policy: str = "motion"
    warmup_steps: int = 5
    motion_sensitivity: float = 0.4
    reuse_threshold: float = 0.1
    uniform_updates: int = 3
    agreement: float = 0.5
    min_update_ratio: float = 0.2
    update_share: float = 0.0
    compute_budget: float = 0.0
    max_stale_steps: int = 8
    end_percent: float = 1.0
    motion_source: str = "predicted_x0"
    forecast: float = 0.0
    kv_forecast: float = 0.0
    correction: float = 0.0
    cfg_mask: str = "shared"
    kv_cache: str = "auto"
    verbose: bool = False
    dense_last: bool = True
    clamp_distance: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            hint = " (the vote needs more than this share)" if field.name == "agreement" else ""
            value = getattr(self, field.name)
            check_field(field.name, value, str(field.type), CHOICES, RANGES, hint)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> MotionCacheSettings:
        """The preset's settings, with single fields changed.

        Raises:
            SettingsError: the preset or a field is unknown, or a value is out of range.
        """
        if name not in PRESETS:
            raise SettingsError(
                f"preset is {name!r}; allowed are {', '.join(map(repr, PRESETS))}. "
                "Pick one of these, or connect a settings node."
            )
        unknown = changes.keys() - {f.name for f in fields(cls)}
        if unknown:
            known = ", ".join(f.name for f in fields(cls))
            raise SettingsError(f"unknown settings {sorted(unknown)}; known are {known}")
        return replace(PRESETS[name], **changes)

    @property
    def keeps_slope(self) -> bool:
        """Whether the residual's slope is kept."""
        by_change = self.policy in ("motion", "random") and self.motion_source == "residual"
        return self.forecast > 0 or by_change

    def as_dict(self) -> dict[str, Any]:
        """All fields, for reports."""
        return asdict(self)


_TUNED = MotionCacheSettings(
    warmup_steps=2,
    motion_sensitivity=0.4,
    uniform_updates=0,
    min_update_ratio=0.4,
    max_stale_steps=16,
    motion_source="residual",
    forecast=1.0,
    kv_forecast=0.5,
    correction=1.0,
)

PRESETS: dict[str, MotionCacheSettings] = {
    # what they bring on the demo model: tests/bench/results/presets.json
    # where about every second step is computed, whole evaluations are closer than more partial ones
    "quality": replace(_TUNED, policy="chunk", compute_budget=0.55),
    "balanced": replace(_TUNED, compute_budget=0.4),
    "fast": replace(_TUNED, compute_budget=0.3),
    # the published script: 1 + 4 full evaluations, 6 uniform updates, floor 0.6, vote 0.5
    "paper": MotionCacheSettings(
        warmup_steps=5,
        motion_sensitivity=0.4,
        reuse_threshold=0.1,
        uniform_updates=6,
        agreement=0.5,
        min_update_ratio=0.4,
        max_stale_steps=0,
        motion_source="features",
        cfg_mask="separate",
        dense_last=False,
        clamp_distance=False,
    ),
}

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

    Args:
        steps: sampling steps; 0 where they are not known.

    Raises:
        SettingsError: there is no such preset.
    """
    settings = MotionCacheSettings.preset(preset)
    if preset in FIXED:
        return RunSettings(
            settings, preset, ("settings as published, whatever the model and the run",)
        )
    if not FEW_STEPS < steps < TUNED_STEPS:
        return RunSettings(settings, preset)
    warm_up = math.ceil(settings.warmup_steps * steps / TUNED_STEPS)
    if warm_up == settings.warmup_steps:
        return RunSettings(settings, preset)
    why = (
        f"warmup_steps {warm_up} instead of {settings.warmup_steps}, the same share of {steps} "
        f"steps as of the {TUNED_STEPS} that the preset was tuned on"
    )
    return RunSettings(replace(settings, warmup_steps=warm_up), preset, (why,))
