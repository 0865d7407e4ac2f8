"""What says which rows a part of an evaluation computes: high scores come first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tokens.memory import RowMemory
from torch import Tensor


@dataclass(frozen=True)
class Seen:
    """What is known when rows are chosen.

    Attributes:
        answers: of each row, from when it was last computed.
        missed: what the forecast missed when each row was last computed, `(L,)`, squared.
        gaps: steps that this forecast was over.
        probe: what the blocks up to the cut have added less what they were foretold to,
            `(L,)`, squared.
        truth: what the forecast would miss now; read by the oracle alone.
    """

    step: int
    answers: RowMemory
    missed: Tensor
    gaps: Tensor
    probe: Callable[[], Tensor]
    truth: Callable[[], Tensor]


def oracle(seen: Seen) -> Tensor:
    """What nobody can know."""
    return seen.truth()


def probe(seen: Seen) -> Tensor:
    """What the first blocks say, which ran on all rows."""
    return seen.probe()


def missed(seen: Seen) -> Tensor:
    """What the last forecast missed, drawn out to how old the answer is by now."""
    return seen.missed * (seen.answers.ages(seen.step) / seen.gaps.clamp_min(1)) ** 2


def missed_in_turn(seen: Seen) -> Tensor:
    """The same, but rows that were left out last time come first."""
    score, last = missed(seen), seen.answers.steps[-1]
    waited = (last < last.max()).float() * seen.answers.ages(seen.step)
    return waited + 0.5 * score / score.max().clamp_min(1e-30)


def change(seen: Seen) -> Tensor:
    """How fast the answer changed when it was last computed, and how old it is."""
    known = seen.answers
    between = (known.steps[-1] - known.steps[-2]).clamp_min(1)
    rate = ((known.values[-1] - known.values[-2]) / between[None, :, None]).pow(2).mean((0, 2))
    return rate * known.ages(seen.step) ** 2


def age(seen: Seen) -> Tensor:
    """The oldest first, and among them by chance."""
    rng = torch.Generator().manual_seed(seen.step)
    ages = seen.answers.ages(seen.step)
    return ages + 0.5 * torch.rand(len(ages), generator=rng)
