"""Caches that do not go together on one model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...motioncache_core import ConflictError

# under which key of transformer_options a model is marked as being recorded
CALIBRATE = "motioncache_calibrate"

# what other caches leave in transformer_options, and what their nodes are called
_OTHER_CACHES = {
    "easycache": "EasyCache or LazyCache",
    "rel_l1_thresh": "TeaCache",
    "teacache": "TeaCache",
    "magcache_thresh": "MagCache",
}


def check_conflicts(model_options: Mapping[str, Any], already: bool) -> None:
    """Refuse a second MotionCache, or another cache beside it."""
    if already:
        raise ConflictError(
            "this model already has MotionCache. Use one MotionCache node per model and connect "
            "a settings node to change it."
        )
    name = other_cache(model_options)
    if name is not None:
        raise ConflictError(
            f"{name} is on this model too, and two caches spoil each other's result. Remove "
            f"one of them: {name} or MotionCache."
        )


def check_recording(model_options: Mapping[str, Any]) -> None:
    """Refuse to cache a model that is being recorded."""
    if CALIBRATE in model_options.get("transformer_options", {}):
        raise ConflictError(
            "MotionCache Calibrate is on this model, which has to run without a cache while it is "
            "measured. Bypass MotionCache for that run, and MotionCache Calibrate afterwards."
        )


def other_cache(model_options: Mapping[str, Any]) -> str | None:
    """The name of another pack's cache on a model."""
    options = model_options.get("transformer_options", {})
    return next((name for key, name in _OTHER_CACHES.items() if key in options), None)
