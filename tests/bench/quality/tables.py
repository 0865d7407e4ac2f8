"""Figures as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def cell(figure: dict[str, Any] | None, clips: int, digits: int, sign: bool = False) -> str:
    """An estimate with its interval."""
    if figure is None:
        return "-"
    mark = "+" if sign else ""
    told = f"{figure['mean']:{mark}.{digits}f}"
    if figure["low"] is not None:
        told += f" [{figure['low']:{mark}.{digits}f}, {figure['high']:{mark}.{digits}f}]"
    return told if figure["clips"] == clips else f"{told} ({figure['clips']})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)
