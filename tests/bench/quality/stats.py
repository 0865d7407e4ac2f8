"""Curves at equal compute, and how sure their means are."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from scipy.stats import t as student

# a mean over clips, the ends of its 95 % interval, which few clips do not give, and their number
Estimate = dict[str, float | int | None]

RESAMPLES = 4000
# of a share: how far away runs still tell something of it
WINDOW = 0.2
# of fewer clips hardly any interval is wide enough
LEAST_CLIPS = 6


def at_share(points: Sequence[tuple[float, float]], share: float) -> float | None:
    """A clip's measure at a compute share: a line fitted to the runs of its sweep that lie within
    a fifth of it, near ones counting more, or else through the two next to it; None outside the
    sweep.

    Which steps a budget falls on puts a run above or below its neighbours, so that a line through
    two of many runs would measure that. Runs of the same share count as one with their
    mean: a threshold that changes no decision must not bend the curve.

    Args:
        points: compute share and measure of every run of the sweep.
    """
    found: dict[float, list[float]] = defaultdict(list)
    for x, y in points:
        found[round(x, 6)].append(y)
    xs = sorted(found)
    if not xs or not xs[0] <= share <= xs[-1]:
        return None
    below, above = max(x for x in xs if x <= share), min(x for x in xs if x >= share)
    reach = max(WINDOW * share, 1.01 * (share - below), 1.01 * (above - share))
    ahead = np.array(xs) - share
    weight = np.clip(1 - np.abs(ahead) / reach, 0, None)
    kept = weight > 0
    ys = np.array([float(np.mean(found[x])) for x in xs])
    if kept.sum() == 1:
        return float(ys[kept][0])
    # weights of squared errors, which polyfit wants the roots of
    return float(np.polyfit(ahead[kept], ys[kept], 1, w=np.sqrt(weight[kept]))[1])


def bootstrap(values: Sequence[float | None], seed: int = 0) -> Estimate | None:
    """Mean and bootstrap interval over the clips that have a value, rounded for a result file;
    None of no clips.

    The percentile interval, expanded to Student's width: of few clips the plain one is too narrow
    (Hesterberg 2015, "What teachers should know about the bootstrap").
    """
    data = np.array([v for v in values if v is not None], dtype=float)
    n = len(data)
    if not n:
        return None
    ends: Sequence[float | None] = (None, None)
    if n >= LEAST_CLIPS:
        rng = np.random.default_rng(seed)
        means = data[rng.integers(n, size=(RESAMPLES, n))].mean(axis=1)
        tail = NormalDist().cdf(-math.sqrt(n / (n - 1)) * float(student.ppf(0.975, n - 1)))
        ends = np.quantile(means, (tail, 1 - tail))
    told = (None if b is None else float(f"{b:.6g}") for b in (data.mean(), *ends))
    return dict(zip(("mean", "low", "high"), told, strict=True)) | {"clips": n}


def paired(ours: Sequence[float | None], theirs: Sequence[float | None]) -> Estimate | None:
    """Mean difference and its interval over the clips that have both; clip by clip, as most of the
    spread is the clips' own."""
    both = zip(ours, theirs, strict=True)
    return bootstrap([None if a is None or b is None else a - b for a, b in both])
