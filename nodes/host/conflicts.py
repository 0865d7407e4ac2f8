"""Caches that do not go together on one model."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from ...motioncache_core import ConflictError

# under which key of transformer_options a model is marked as being recorded
CALIBRATE = "motioncache_calibrate"

# what other caches leave in transformer_options, and what their nodes are called
_OTHER_CACHES = {
    "easycache": "EasyCache",
    "rel_l1_thresh": "TeaCache",
    "teacache": "TeaCache",
    "magcache_thresh": "MagCache",
}
# others leave nothing there: the functions that they wrap the model in are known by their names,
# written small and without what parts words
_NAMES = {
    "teacache": "TeaCache",
    "magcache": "MagCache",
    "easycache": "EasyCache",
    "lazycache": "LazyCache",
    "fbcache": "First Block Cache",
    "firstblockcache": "First Block Cache",
    "wavespeed": "WaveSpeed",
    "taylorseer": "TaylorSeer",
    "cachedit": "CacheDiT",
    "dbcache": "DBCache",
    "dicache": "DiCache",
}
_WRAPPER = "model_function_wrapper"
# packs are modules of the path they lie in, and a folder above them may have any name
_PACKS = "custom_nodes"


def check_conflicts(
    model_options: Mapping[str, Any], already: bool, wrappers: Mapping[str, Any] | None = None
) -> None:
    """Refuse a second MotionCache, or another cache beside it.

    Args:
        wrappers: of the model, where they are not in its options yet.
    """
    if already:
        raise ConflictError(
            "this model already has MotionCache. Use one MotionCache node per model and connect "
            "a settings node to change it."
        )
    name = other_cache(model_options, wrappers)
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


def other_cache(
    model_options: Mapping[str, Any], wrappers: Mapping[str, Any] | None = None
) -> str | None:
    """The name of another pack's cache on a model."""
    options = model_options.get("transformer_options", {})
    for key, name in _OTHER_CACHES.items():
        if key in options:
            # nodes that share a key say which of them it was
            own = getattr(options[key], "name", None)
            return own if own in _NAMES.values() else name
    for function in (
        model_options.get(_WRAPPER),
        *_listed(options.get("wrappers")),
        *_listed(wrappers),
    ):
        words = _words(function) + _words(getattr(function, "__self__", None))
        found = next((name for word, name in _NAMES.items() if word in words), None)
        if found is not None:
            return found
    return None


def _listed(wrappers: Any) -> Iterator[Any]:
    """Wrappers by kind and key, one by one."""
    if not isinstance(wrappers, Mapping):
        return
    for by_key in wrappers.values():
        for functions in by_key.values() if isinstance(by_key, Mapping) else ():
            yield from functions if isinstance(functions, (list, tuple)) else ()


def _words(function: Any) -> str:
    """Where a function comes from and what it is called, small and without what parts words."""
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    named = function if hasattr(function, "__qualname__") else type(function)
    module = str(getattr(named, "__module__", "")).rpartition(_PACKS)[2]
    name = str(getattr(named, "__qualname__", ""))
    return f"{module}.{name}".lower().replace("_", "").replace("-", "")
