"""Fields of option classes: declared with what they may hold, and checked against that."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from .errors import SettingsError

T = TypeVar("T")
_KEY = "option"


@dataclass(frozen=True, slots=True)
class Option:
    """What a field may hold, and how a node shows it.

    Attributes:
        tooltip: what it does.
        choices: of a text.
        limits: of a number, both inclusive; those of a share where none are given.
        step: of a real number's widget.
        advanced: hidden among the advanced inputs; None leaves that to the host.
        hint: put behind the limits in an error.
    """

    tooltip: str
    choices: tuple[str, ...] = ()
    limits: tuple[float, float] = (0.0, 1.0)
    step: float = 0.01
    advanced: bool | None = True
    hint: str = ""


def option(default: T, tooltip: str, **more: Any) -> T:
    """A dataclass field with this default, declared as an `Option`."""
    return field(default=default, metadata={_KEY: Option(tooltip, **more)})


def declared(options: Any) -> dict[str, Option]:
    """The declarations of a class of options, or of an instance, by field."""
    return {item.name: item.metadata[_KEY] for item in fields(options)}


def check_fields(options: Any) -> None:
    """Check every field of an instance against its declaration.

    Raises:
        SettingsError: a value has the wrong type, is not offered or is out of range.
    """
    for item in fields(options):
        _check(item.name, getattr(options, item.name), str(item.type), item.metadata[_KEY])


def _check(name: str, value: object, kind: str, allowed: Option) -> None:
    """`kind` is the field's type as it is written: "bool", "str", "int" or "float"."""
    if kind == "bool":
        if not isinstance(value, bool):
            raise SettingsError(f"{name} is {value!r}; give True or False")
    elif kind == "str":
        if value not in allowed.choices:
            choices = ", ".join(map(repr, allowed.choices))
            raise SettingsError(f"{name} is {value!r}; allowed are {choices}")
    else:
        low, high = allowed.limits
        number = isinstance(value, int if kind == "int" else (int, float))
        endless = isinstance(value, float) and not math.isfinite(value)
        if not number or isinstance(value, bool) or endless:
            wanted = "a whole number" if kind == "int" else "a number"
            raise SettingsError(f"{name} is {value!r}; give {wanted} from {low:g} to {high:g}")
        if not low <= value <= high:  # type: ignore[operator]
            raise SettingsError(f"{name} is {value}; allowed are {low:g} to {high:g}{allowed.hint}")
