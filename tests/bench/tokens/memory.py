"""What is known of each row from when it was last computed, and what is owed for the steps between.

The same sums as `policy/answer_forecast.py` and `policy/answer_ledger.py`, which are for all rows
together, with a list of computed steps for each row; for Euler's method, where all that is owed can
be paid at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

# an answer is foretold from as many
KEPT = 3


class RowMemory:
    """The last values of each row, and the steps that they are of.

    Args:
        kept: how many of each row.

    Attributes:
        steps: `(kept, L)`, from old to new.
        values: as many, `(B, L, C)` each.
        counts: how often each row was stored, `(L,)`.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self.steps = self.counts = torch.empty(0)
        self.values: list[Tensor] = []

    def store(self, step: int, value: Tensor, rows: Tensor | None) -> None:
        """Take in the value of some rows; None takes in all."""
        if not self.values:
            length = value.shape[1]
            self.steps = torch.full((self._kept, length), -torch.inf)
            self.values = [torch.zeros_like(value) for _ in range(self._kept)]
            self.counts = torch.zeros(length)
        at = slice(None) if rows is None else rows
        for old, new in zip(range(self._kept - 1), range(1, self._kept), strict=True):
            self.steps[old, at] = self.steps[new, at]
            self.values[old][:, at] = self.values[new][:, at]
        self.steps[-1, at] = float(step)
        self.values[-1][:, at] = value[:, at]
        self.counts[at] += 1

    def ages(self, step: int) -> Tensor:
        """Steps since each row was computed, `(L,)`."""
        return step - self.steps[-1]

    def carried(self, step: int, strength: float) -> Tensor:
        """Each row's last value, with so much of its last change carried on by one interval at
        most."""
        last, age = self.values[-1], self.ages(step)
        reach = strength * age / torch.maximum(self.steps[-1] - self.steps[-2], age)
        reach = torch.where(self.counts >= 2, reach, 0.0)
        return last + reach[None, :, None] * (last - self.values[-2])

    def weights(self, step: int) -> list[Tensor]:
        """Of each row's three values in its foretold one: the mean of a parabola through them and
        of a line through the last two that one interval draws out at most."""
        age, zero = self.ages(step), torch.zeros_like(self.counts)
        reach = age / torch.maximum(self.steps[-1] - self.steps[-2], age).clamp_min(1e-9)
        reach = torch.where(self.counts >= 2, reach, 0.0)
        line = [zero, -reach, 1 + reach]
        curve = lagrange(list(self.steps), float(step))
        pairs = zip(line, curve, strict=True)
        return [torch.where(self.counts >= 3, 0.5 * (a + b), a) for a, b in pairs]

    def foretold(self, step: int) -> Tensor:
        """Each row's value at a step at which it is not computed."""
        terms = zip(self.weights(step), self.values, strict=True)
        found: Tensor = sum((w[None, :, None] * v for w, v in terms), torch.zeros(()))
        return found


def lagrange(points: Sequence[Tensor], at: float) -> list[Tensor]:
    """Weights of the polynomial through these points, row by row."""
    found = []
    for i, own in enumerate(points):
        weight = torch.ones_like(own)
        for j, other in enumerate(points):
            if i != j:
                weight = weight * (at - other) / (own - other)
        found.append(weight)
    return found


class Hindsight:
    """What rows were foretold to be, as weights of their kept values, until they are computed.

    Args:
        sigmas: of an Euler run, with the one it ends at.
        largest: weights above it amplify what the values differ by more than it is worth to pay;
            the product's ledger lets a later answer pay then, this one nobody.
    """

    def __init__(self, sigmas: Sequence[float], largest: float = 16.0) -> None:
        self._lengths = [b - a for a, b in pairwise(sigmas)]
        self._largest = largest
        # by step: weights `(3, L)`, and whose rows are still open
        self._told: dict[int, tuple[Tensor, Tensor]] = {}

    def told(self, step: int, rows: Tensor, known: RowMemory) -> None:
        """Rows that are True in `rows` `(L,)` are foretold at this step."""
        if rows.any():
            self._told[step] = torch.stack(known.weights(step)), rows.clone()

    def pay(self, step: int, answers: Tensor, rows: Tensor, known: RowMemory) -> Tensor:
        """What is added to the answers of rows that are computed now, so that the sampler goes on
        as if it had been told what can be interpolated by now.

        Args:
            rows: `(L,)` bool.
            known: without the answers of this step.
        """
        now, several = torch.full_like(known.counts, float(step)), known.counts >= 2
        owed = torch.zeros(KEPT + 1, len(now))
        for past, (foretold, open_) in list(self._told.items()):
            two = lagrange([known.steps[-1], now], float(past))
            three = lagrange([known.steps[-2], known.steps[-1], now], float(past))
            better = [torch.where(several, a, b) for a, b in zip(three[1:], two, strict=True)]
            better = [torch.where(several, three[0], 0.0), *better]
            missed = torch.stack((torch.zeros_like(now), *better))
            missed[:KEPT] -= foretold
            share = self._lengths[past] / self._lengths[step]
            owed += torch.where(open_ & rows, share * missed, 0.0)
            self._told[past] = foretold, open_ & ~rows
        self._told = {past: told for past, told in self._told.items() if told[1].any()}
        owed = torch.where(owed.abs().amax(dim=0) <= self._largest, owed, 0.0)
        terms = zip(owed, (*known.values, answers), strict=True)
        return sum((w[None, :, None] * v for w, v in terms), torch.zeros_like(answers))
