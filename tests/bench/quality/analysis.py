"""From runs to figures: sweeps, measures at equal compute, differences clip by clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from statistics import fmean
from typing import Any

from quality.stats import at_share, bootstrap, paired

Record = dict[str, Any]
# a clip's runs of one policy, in the order of its sweep
Sweep = Sequence[Record]

TARGETS = (0.30, 0.40, 0.50)
# by the time of the processor, which other work on the machine disturbs least
CPU_TIME = "cpu_share"
AXES: dict[str, Callable[[Record], float]] = {
    "compute_share": itemgetter("compute_share"),
    "flops_share": itemgetter("flops_share"),
    CPU_TIME: lambda r: r["cpu_seconds"] / r["uncached_cpu_seconds"],
}
TAKEN = ("psnr", "ssim", "temporal_psnr", "psnr_moving", "psnr_static", "region_gap")
MEASURES: dict[str, Callable[[Record], float | None]] = {
    **{name: itemgetter(name) for name in TAKEN},
    "ssim_loss": lambda r: 1 - r["ssim"],
    "speedup": lambda r: r["uncached_seconds"] / r["seconds"],
    "cpu_speedup": lambda r: r["uncached_cpu_seconds"] / r["cpu_seconds"],
}


def level(share: float) -> str:
    """A compute share as a key of a result file."""
    return f"{share:.2f}"


def at_equal_compute(
    sweeps: Sequence[Sweep], measure: str, share: float, axis: str = "compute_share"
) -> list[float | None]:
    """The measure of every clip at a share of the uncached run's work (an axis); None where its
    sweep does not reach it, or the clip has no such measure."""
    found: list[float | None] = []
    for sweep in sweeps:
        points = [(AXES[axis](r), MEASURES[measure](r)) for r in reusing(sweep)]
        found.append(None if None in (y for _, y in points) else at_share(points, share))
    return found


def reusing(sweep: Sweep) -> Sweep:
    """The runs that reused anything. One that did not is equal to the uncached video, for which
    there are no decibels."""
    return [r for r in sweep if r["compute_share"] < 1]


def policy_figures(sweeps: Sequence[Sweep]) -> dict[str, Any]:
    """A policy's sweep, averaged over clips run by run, and its measures at equal compute."""
    runs = [
        {name: bootstrap([of(r) for r in reusing(same)]) for name, of in (AXES | MEASURES).items()}
        for same in zip(*sweeps, strict=True)
    ]
    shares = [[r["compute_share"] for r in reusing(sweep)] for sweep in sweeps]
    # curves bend down, so that a line is too low where this is large; 1 where there is no run
    nearest = {
        level(target): round(fmean(min([1.0, *(abs(x - target) for x in s)]) for s in shares), 4)
        for target in TARGETS
    }
    at = _everywhere(lambda *place: bootstrap(at_equal_compute(sweeps, *place)))
    return {"sweep": runs, "at": at, "distance_to_a_run": nearest}


def difference_figures(ours: Sequence[Sweep], theirs: Sequence[Sweep]) -> dict[str, Any]:
    """What the first policy has over the second on the same clips at equal compute."""
    return _everywhere(
        lambda *place: paired(*(at_equal_compute(sweeps, *place) for sweeps in (ours, theirs)))
    )


def analysis(
    policies: dict[str, Sequence[Sweep]], compared: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """All figures of a mode, ready for JSON.

    Args:
        policies: by name, a sweep of each clip; the clips in the same order.
        compared: which policy is held against which.
    """
    return {
        "clips": max((len(sweeps) for sweeps in policies.values()), default=0),
        "policies": {name: policy_figures(sweeps) for name, sweeps in policies.items()},
        "differences": [
            {"policy": a, "over": b, "at": difference_figures(policies[a], policies[b])}
            for a, b in compared
        ],
    }


def _everywhere(figure: Callable[[str, float, str], Any]) -> dict[str, Any]:
    return {
        axis: {
            level(share): {name: figure(name, share, axis) for name in MEASURES}
            for share in TARGETS
        }
        for axis in AXES
    }
