"""What is told of one iteration of a chunk-by-chunk run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...common.decision_kinds import DENSE, PARTIAL, REUSE
from ...common.stopwatch import Stopwatch
from ...common.token_layout import TokenLayout
from ...report.trace import CallRecord, ChunkRecord
from ...sampling.schedule import ACTIVE, CLEAN, DONE, Iteration
from .chunk_policy import ChunkChoice

# rows, and the chunks whose keys they attend to, of an evaluation of the network
Work = Sequence[tuple[int, int]]


@dataclass(slots=True)
class IterationCalls:
    """The chunks of one iteration, evaluated or not.

    Args:
        rows: tokens of a chunk.
    """

    rows: int
    records: list[CallRecord] = field(default_factory=list)
    watches: list[tuple[CallRecord, Stopwatch]] = field(default_factory=list)

    def add(self, kind: str, needed: Work, done: Work, watch: Stopwatch | None, note: str) -> None:
        """A chunk: what it takes when nothing is reused, and what was done."""
        record = CallRecord(
            kind,
            max(1, len(needed)),
            1,
            sum(rows for rows, _ in done),
            note=note,
            needed=sum(rows for rows, _ in needed),
            pairs=self._pairs(done),
            needed_pairs=self._pairs(needed),
            window=sum(rows for rows, _ in needed),
            window_pairs=self._pairs(needed),
        )
        self.records.append(record)
        if watch is not None:
            self.watches.append((record, watch))

    def _pairs(self, work: Work) -> int:
        return sum(rows * chunks * self.rows for rows, chunks in work)


def chunk_records(
    it: Iteration, choices: Mapping[int, ChunkChoice], shown: Iterable[int], rows: int
) -> tuple[ChunkRecord, ...]:
    """What became of every chunk of the clip.

    Args:
        choices: of the chunks at work, by number.
        shown: finished chunks whose keys were made once more.
        rows: tokens of a chunk.
    """
    clean, found = set(shown), []
    for number, chunk in enumerate(it.steps):
        if chunk.role == ACTIVE:
            choice = choices[number]
            count = 0 if choice.rows is None else len(choice.rows)
            active = {DENSE: rows, PARTIAL: count, REUSE: 0}[choice.kind]
            found.append(ChunkRecord(choice.kind, choice.phase, active, rows, choice.distance))
        elif number in clean:
            found.append(ChunkRecord(DENSE, CLEAN, rows, rows, None))
        else:
            phase = DONE if chunk.role == CLEAN else chunk.role
            found.append(ChunkRecord(REUSE, phase, 0, rows, None))
    return tuple(found)


def active_rows(
    records: Sequence[ChunkRecord], choices: Mapping[int, ChunkChoice], device: torch.device
) -> Tensor | None:
    """Rows of the clip that were computed `(L,)` bool; None where chunks say it all."""
    if all(record.kind != PARTIAL for record in records):
        return None
    parts = []
    for number, record in enumerate(records):
        part = torch.full((record.tokens,), record.kind == DENSE, device=device)
        rows = choices[number].rows if record.kind == PARTIAL else None
        if rows is not None:
            part.index_fill_(0, rows, True)
        parts.append(part)
    return torch.cat(parts)


def over_the_clip(found: Mapping[int, Tensor], layout: TokenLayout) -> Tensor | None:
    """Values of the tokens of some chunks as `(L,)`, 0 elsewhere; None where there are none."""
    if not found:
        return None
    first = next(iter(found.values()))
    out = first.new_zeros(layout.tokens)
    for number, rows in enumerate(layout.chunk_rows()):
        if number in found:
            out[rows] = found[number]
    return out
