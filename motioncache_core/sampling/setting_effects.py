"""Which settings do something, as the others are."""

from __future__ import annotations

from ..settings import PRESETS, MotionCacheSettings

# what a setting needs to have an effect. web/js/settings.js has the same table
NEEDS = {
    "hindsight": "answers",
    "motion_sensitivity": "tokens",
    "motion_source": "tokens",
    "update_share": "tokens",
    "max_stale_steps": "blocks",
    "correction": "tokens",
    "kv_forecast": "blocks",
    "cfg_mask": "blocks",
    "uniform_updates": "blocks",
    "agreement": "threshold",
    "min_update_ratio": "threshold",
}


def without_effect(settings: MotionCacheSettings) -> list[str]:
    """Names of the settings that do nothing, as the others are."""
    traits = settings.traits
    by_threshold = settings.compute_budget == 0 and settings.update_share == 0
    met = {
        "answers": traits.answers,
        "blocks": not traits.answers,
        "tokens": traits.per_token,
        "threshold": traits.per_token and by_threshold,
    }
    return [name for name, need in NEEDS.items() if not met[need]]


def changed_in_vain(settings: MotionCacheSettings) -> list[str]:
    """Those of `without_effect` that differ from the default preset's: someone expects something
    of them."""
    usual = PRESETS["balanced"]
    return [n for n in without_effect(settings) if getattr(settings, n) != getattr(usual, n)]
