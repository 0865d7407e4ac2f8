"""Which run of a model a report is of: the one whose latents it is given (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..common.host_transfer import read
from ..common.phrases import phrase
from .trace import Trace

# numbers that tell latents apart, and how far the same ones may be from each other after they were
# kept in half precision
_NUMBERS, _ROUNDING = 64, 1e-2


def mark_of(latents: Any) -> tuple[float, ...]:
    """A few numbers of latents, evenly spaced, by which they are known again in another precision
    and on another device; empty where there are none.

    Args:
        latents: a tensor, or anything that holds its parts as `tensors`.
    """
    parts = getattr(latents, "tensors", None) or [latents]
    flat = [part.detach().reshape(-1) for part in parts if isinstance(part, Tensor)]
    count = sum(len(part) for part in flat)
    if count == 0:
        return ()
    chosen = torch.linspace(0, count - 1, min(count, _NUMBERS), dtype=torch.float64).round().long()
    found, start = [], 0
    for part in flat:
        here = chosen[(chosen >= start) & (chosen < start + len(part))] - start
        found += read(part[here.to(part.device)].float()) if len(here) else []
        start += len(part)
    # how many there are is told, too
    return (float(count), *found)


@dataclass(frozen=True, slots=True)
class ShownRun:
    """A run among those of one patched model.

    Attributes:
        trace: what happened in it.
        number: of the run, from 1 for the first one.
        of: how many runs there were.
        known: whether the latents are this run's; else it is the last one.
    """

    trace: Trace
    number: int
    of: int
    known: bool

    @property
    def sentence(self) -> str | None:
        """Which run it is, in words; None where there was only one."""
        if self.of < 2:
            return None
        if self.known:
            return phrase(
                "run {number} of {of} with this model, which made these samples",
                number=self.number,
                of=self.of,
            )
        return phrase(
            "run {number} of {of} with this model, the last one, as these samples are the output "
            "of none that is remembered. Connect `samples` to the sampler itself",
            number=self.number,
            of=self.of,
        )


def shown_run(runs: Sequence[Trace], latents: Any) -> ShownRun | None:
    """The finished run that made the latents, the newest of several; the last one where none did;
    None where none is finished."""
    finished = [trace for trace in runs if trace.finished]
    if not finished:
        return None
    mark = mark_of(latents)
    made = [trace for trace in finished if _alike(trace.mark, mark)]
    trace = (made or finished)[-1]
    last = max(trace.number for trace in finished)
    return ShownRun(trace, trace.number, last, bool(made))


def _alike(mine: tuple[float, ...], other: tuple[float, ...]) -> bool:
    if not mine or len(mine) != len(other) or mine[0] != other[0]:
        return False
    a, b = (torch.tensor(mark[1:], dtype=torch.float64) for mark in (mine, other))
    return bool((a - b).norm() <= _ROUNDING * b.norm())
