"""Checks of option fields, with messages that say what is allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping

from .errors import SettingsError

Choices = Mapping[str, tuple[str, ...]]
# inclusive
Ranges = Mapping[str, tuple[float, float]]


def check_field(
    name: str, value: object, kind: str, choices: Choices, ranges: Ranges, hint: str = ""
) -> None:
    """Check one field of an options class.

    Args:
        kind: the field's type as it is written: "bool", "str", "int" or "float".
        hint: put behind the allowed range.

    Raises:
        SettingsError: the value has the wrong type, is not offered or is out of range.
    """
    if kind == "bool":
        if not isinstance(value, bool):
            raise SettingsError(f"{name} is {value!r}; give True or False")
    elif kind == "str":
        if value not in choices[name]:
            allowed = ", ".join(map(repr, choices[name]))
            raise SettingsError(f"{name} is {value!r}; allowed are {allowed}")
    else:
        low, high = ranges[name]
        number = isinstance(value, int if kind == "int" else (int, float))
        endless = isinstance(value, float) and not math.isfinite(value)
        if not number or isinstance(value, bool) or endless:
            wanted = "a whole number" if kind == "int" else "a number"
            raise SettingsError(f"{name} is {value!r}; give {wanted} from {low:g} to {high:g}")
        if not low <= value <= high:  # type: ignore[operator]
            raise SettingsError(f"{name} is {value}; allowed are {low:g} to {high:g}{hint}")
