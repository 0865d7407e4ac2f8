"""A sentence with places for facts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Template:
    """Two parts of a sentence without a full stop at its end; `{names}` are filled in.

    Attributes:
        happened: what the state is, with the numbers that led to it.
        action: what to change, beginning with a verb.
    """

    happened: str
    action: str
