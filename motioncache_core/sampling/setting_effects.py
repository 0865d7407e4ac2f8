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
    "kv_cache": "keys",
    "kv_forecast": "blocks",
    "cfg_mask": "blocks",
    "uniform_updates": "blocks",
    "agreement": "threshold",
    "min_update_ratio": "threshold",
}


def without_effect(settings: MotionCacheSettings, keeps_keys: bool = False) -> list[str]:
    """Names of the settings that do nothing, as the others are.

    Args:
        keeps_keys: the model keeps keys and values whatever is reused, as MAGI-1 does.
    """
    traits = settings.traits
    by_threshold = settings.compute_budget == 0 and settings.update_share == 0
    met = {
        "answers": traits.answers,
        "blocks": not traits.answers,
        "keys": keeps_keys or not traits.answers,
        "tokens": traits.per_token,
        "threshold": traits.per_token and by_threshold,
    }
    return [name for name, need in NEEDS.items() if not met[need]]


def changed_in_vain(settings: MotionCacheSettings, keeps_keys: bool = False) -> list[str]:
    """Those of `without_effect` that differ from the default preset's: someone expects something
    of them."""
    usual = PRESETS["balanced"]
    vain = without_effect(settings, keeps_keys)
    return [n for n in vain if getattr(settings, n) != getattr(usual, n)]
