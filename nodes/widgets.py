"""Widgets for what the core declares beside its fields."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from comfy_api.latest import io

from ..motioncache_core.common.field_checks import Option, declared


def widgets(options: Any, names: Iterable[str]) -> list[Any]:
    """A widget for each of these fields; its default is the value in `options`."""
    options_of = declared(options)
    return [_widget(name, getattr(options, name), options_of[name]) for name in names]


def _widget(name: str, default: Any, option: Option) -> Any:
    common: dict[str, Any] = {
        "default": default,
        "tooltip": option.tooltip,
        "advanced": option.advanced,
    }
    if option.choices:
        return io.Combo.Input(name, options=list(option.choices), **common)
    if isinstance(default, bool):
        return io.Boolean.Input(name, **common)
    low, high = option.limits
    if isinstance(default, int):
        return io.Int.Input(name, min=int(low), max=int(high), **common)
    return io.Float.Input(name, min=low, max=high, step=option.step, **common)
