"""What an answer will be, and what it was, as weights of answers that are known (ours)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float64]


def forecast(places: Sequence[float], at: float, strength: float) -> Weights:
    """Weights of the last computed answers for an answer that is not computed.

    The mean of a parabola through the last three and of a line through the last two whose slope is
    damped by the horizon; with two answers the line, with one the answer itself.

    Args:
        places: of the answers, in steps and ascending; one to three of them.
        at: the place that is asked for, at or behind the last one.
        strength: 1 forecasts, 0 holds the last answer.
    """
    held = np.zeros(len(places))
    held[-1] = 1.0
    if strength == 0 or len(places) == 1:
        return held
    line = held.copy()
    last = places[-1] - places[-2]
    # at most one step of the slope, so that a long gap is not drawn out
    reach = (at - places[-1]) / max(last, at - places[-1])
    line[-2:] += np.array((-reach, reach))
    foretold = line if len(places) == 2 else 0.5 * (line + interpolation(places, at))
    weights: Weights = held + strength * (foretold - held)
    return weights


def interpolation(places: Sequence[float], at: float) -> Weights:
    """Weights of Lagrange's polynomial through all of these places."""
    weights = np.ones(len(places))
    for i, own in enumerate(places):
        for j, other in enumerate(places):
            if i != j:
                weights[i] *= (at - other) / (own - other)
    return weights
