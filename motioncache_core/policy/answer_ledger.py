"""What a sampler was told of a pass, and what it should have been told: hindsight (ours).

An answer that was not computed is foretold from those before it. Once the next one is computed it
can be interpolated, and what the foretold one missed is owed to the sampler. It is paid through
the next answers: each is changed so that the latents the sampler goes on with are those it would
have with the better answers, whatever it remembers of old ones (`sampler_response.shares`). No
tensor of the sampler is written to.

All of this is weights of the few answers that are kept, numbers that follow from the schedule
alone: the same on every device that computes a part of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..sampling.sampler_response import Matrix
from .answer_forecast import Weights, forecast, interpolation

# answers that are kept: a parabola has three points
KEPT = 3
# weights above this amplify what the answers differ by more than a correction is worth
_LARGEST = 16.0


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """How a computed answer is taken in.

    Attributes:
        slot: where it goes.
        weights: of the answers kept before it, by slot; what is added to it for the sampler.
        own: the weight of the answer itself in what is added.
    """

    slot: int
    weights: tuple[float, ...]
    own: float

    @property
    def pays(self) -> bool:
        """Whether anything is added."""
        return self.own != 0 or any(self.weights)


class AnswerLedger:
    """The weights of one pass, evaluation by evaluation.

    Args:
        places: of the evaluations, see `SamplerResponse`.
        strength: of the forecast, see `forecast`.
        shares: see `sampler_response.shares`; None pays nothing back.
    """

    def __init__(self, places: Sequence[float], strength: float, shares: Matrix | None) -> None:
        self._places, self._strength, self._shares = places, strength, shares
        # evaluations whose answers are kept, from old to new, and the slot of each
        self._kept: list[int] = []
        self._slots: list[int] = []
        # foretold answers since the last computed one
        self._open: list[tuple[int, Weights]] = []
        # of each evaluation what it should have told less what it told, by kept answer
        self._owed: dict[int, Weights] = {}

    @property
    def knows(self) -> bool:
        """Whether there is an answer to go by."""
        return bool(self._kept)

    def reuse(self, evaluation: int) -> tuple[float, ...]:
        """Weights by slot of the answer to give for an evaluation that is not computed."""
        places = self._places
        weights = forecast([places[i] for i in self._kept], places[evaluation], self._strength)
        self._open.append((evaluation, weights))
        return self._by_slot(weights + self._paid(evaluation))

    def store(self, evaluation: int) -> StoredAnswer:
        """Take in the answer of an evaluation that is computed."""
        places = self._places
        kept = [*self._kept, evaluation]
        self._owed = {j: np.append(w, 0.0) for j, w in self._owed.items()}
        if self._shares is not None:
            # the last two before it and the new one; those of one place say the same
            points = [i for i in range(len(kept)) if places[kept[i]] != places[evaluation]][-2:]
            points.append(len(kept) - 1)
            for j, foretold in self._open:
                better = np.zeros(len(kept))
                better[points] = interpolation([places[kept[i]] for i in points], places[j])
                owed = self._owed.get(j, np.zeros(len(kept)))
                self._owed[j] = owed + better - np.append(foretold, 0.0)
        self._open = []
        self._kept = kept
        paid = self._paid(evaluation)
        own, weights = float(paid[-1]), paid[:-1]
        by_slot = self._by_slot(weights)
        return StoredAnswer(self._make_room(), by_slot, own)

    def _paid(self, evaluation: int) -> Weights:
        """What an answer takes upon itself of all that is owed."""
        paid = np.zeros(len(self._kept))
        if self._shares is not None:
            share = self._shares[evaluation]
            for j, owed in self._owed.items():
                paid += share[j] * owed
            if np.abs(paid).max() > _LARGEST:
                # the next evaluation pays instead
                paid[:] = 0.0
            if paid.any():
                self._owed[evaluation] = self._owed.get(evaluation, 0.0) - paid
        return paid

    def _by_slot(self, weights: Weights) -> tuple[float, ...]:
        found = [0.0] * KEPT
        for slot, weight in zip(self._slots, weights, strict=False):
            found[slot] = float(weight)
        return tuple(found)

    def _make_room(self) -> int:
        """The slot of the newest answer; what is owed in terms of one that goes is told in terms
        of the others, as their polynomial has it."""
        places = [self._places[i] for i in self._kept]
        same = [i for i, p in enumerate(places[:-1]) if p == places[-1]]
        if not same and len(self._kept) <= KEPT:
            self._slots.append(len(self._slots))
            return self._slots[-1]
        gone = same[0] if same else 0
        rest = [i for i in range(len(places)) if i != gone]
        at = interpolation([places[i] for i in rest], places[gone])
        self._owed = {j: w[rest] + w[gone] * at for j, w in self._owed.items()}
        self._kept = [self._kept[i] for i in rest]
        slot = self._slots.pop(gone)
        self._slots.append(slot)
        return slot
