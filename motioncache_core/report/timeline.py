"""The timeline of a run: chunks down, evaluations across."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.decision_kinds import REUSE
from .colours import colour_at
from .trace import EvaluationRecord, Trace

BACK = (0.13, 0.13, 0.15)
REUSED = (0.26, 0.26, 0.3)
# the part of the colour map between the smallest share and a dense cell
_LOW, _HIGH = 0.25, 0.78


@dataclass(frozen=True, slots=True)
class Cell:
    """A chunk in an evaluation that it was at work in.

    Attributes:
        row, column: chunk of the clip (or context window), and evaluation among those that share
            the row's decisions.
        kind: "dense", "partial" or "reuse", as decided.
        active, tokens: token rows decided to be computed, of how many.
    """

    row: int
    column: int
    kind: str
    active: int
    tokens: int

    @property
    def share(self) -> float:
        return self.active / self.tokens


def cells(trace: Trace) -> list[Cell]:
    """What was decided for every chunk at work, evaluation by evaluation.

    With separate decisions per branch these are the first branch's.
    """
    return [
        Cell(row, column, chunk.kind, chunk.active, chunk.tokens)
        for records in _of_first_branch(trace)
        for column, record in enumerate(records)
        for row, chunk in enumerate(record.chunks, start=record.first_chunk + record.position)
        if not chunk.idle
    ]


def _of_first_branch(trace: Trace) -> list[list[EvaluationRecord]]:
    """The evaluations of every context window; of the whole clip where there are none."""
    scopes: dict[int, str] = {}
    for record in trace.evaluations:
        scopes.setdefault(record.position, record.scope)
    return [[e for e in trace.evaluations if e.scope == scope] for scope in scopes.values()]


def size(trace: Trace) -> tuple[int, int]:
    """Rows and columns of the timeline, at least one of each."""
    found = _of_first_branch(trace)
    ends = [r.first_chunk + r.position + len(r.chunks) for records in found for r in records]
    return max(ends, default=1), max(map(len, found), default=1)


def shade(share: float) -> tuple[float, float, float]:
    """RGB in 0..1 of a cell whose `share` was computed: the more, the brighter."""
    return colour_at(_LOW + (_HIGH - _LOW) * share, "magma")


def timeline(trace: Trace, cell: int = 16, height: int | None = None) -> Tensor:
    """The cells without words, `(1, H, W, 3)` in 0..1.

    A chunk that is not at work has no cell.

    Args:
        cell: width of a cell in pixels, with its gap.
        height: height alike; three times the width unless given.
    """
    rows, columns = size(trace)
    tall = 3 * cell if height is None else height
    gap = 1 if cell < 12 else 2
    picture = torch.tensor(BACK).expand(rows * tall, columns * cell, 3).clone()
    for c in cells(trace):
        colour = REUSED if c.kind == REUSE else shade(c.share)
        top, left = c.row * tall, c.column * cell
        picture[top : top + tall - gap, left : left + cell - gap] = torch.tensor(colour)
    return picture[None]
