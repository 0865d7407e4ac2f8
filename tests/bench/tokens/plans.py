"""Which share of the rows each step computes, at a given amount of work."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from motioncache_pack.motioncache_core.policy.answer_plan import distances, placed

# shares of the rows by step: 1 computes all of them, 0 none
Plan = tuple[float, ...]
# the first step, and the last two, are computed in full
_ENDS = 3


def whole(sigmas: Sequence[float], evaluations: int) -> Plan:
    """Whole evaluations alone, placed as the product places them."""
    chosen = placed(sigmas[:-1], evaluations, {0, len(sigmas) - 2})
    return tuple(float(k in chosen) for k in range(len(sigmas) - 1))


def spread(sigmas: Sequence[float], work: int, wholes: int, share: float, left_out: float) -> Plan:
    """So many whole evaluations, and parts of others evenly among them.

    Args:
        work: in whole evaluations; the plan takes just that.
        share: about how many of the rows a part computes.
        left_out: what a row costs in a part that it does not belong to.
    """
    parts = _parts(work - wholes, share, left_out, len(sigmas) - 1 - wholes)
    chosen = sorted(placed(sigmas[:-1], wholes + parts, {0, len(sigmas) - 2}))
    inside, full = chosen[1:-2], {chosen[0], *chosen[-2:]}
    more = wholes - _ENDS
    for k in range(1, more + 1):
        full.add(inside[round(k * (len(inside) + 1) / (more + 1)) - 1])
    return _filled(sigmas, work, full, set(chosen) - full, left_out)


def between(sigmas: Sequence[float], work: int, wholes: int, share: float, left_out: float) -> Plan:
    """The whole evaluations where they are without parts, and parts in the widest gaps behind the
    third of them: before, nothing can be foretold from three answers."""
    last = len(sigmas) - 2
    full = placed(sigmas[:-1], wholes, {0, last})
    along = np.concatenate(([0.0], np.cumsum(distances(sigmas[:-1]))))
    first = sorted(full)[_ENDS - 1]
    parts: set[int] = set()
    for _ in range(_parts(work - wholes, share, left_out, last)):
        taken = sorted(k for k in full | parts if k >= first)
        gaps = [(a, b) for a, b in pairwise(taken) if b - a > 1]
        if not gaps:
            break
        a, b = max(gaps, key=lambda ends: along[ends[1]] - along[ends[0]])
        middle = (along[a] + along[b]) / 2
        parts.add(min(range(a + 1, b), key=lambda k: abs(along[k] - middle)))
    return _filled(sigmas, work, full, parts, left_out)


def _parts(work: float, share: float, left_out: float, most: int) -> int:
    return max(1, min(most, round(work / (share + (1 - share) * left_out))))


def _filled(
    sigmas: Sequence[float], work: float, full: set[int], parts: set[int], left_out: float
) -> Plan:
    """The plan whose parts are as large as the work allows."""
    each = (work - len(full)) / len(parts)
    share = min(1.0, (each - left_out) / (1 - left_out))
    return tuple(1.0 if k in full else share if k in parts else 0.0 for k in range(len(sigmas) - 1))
