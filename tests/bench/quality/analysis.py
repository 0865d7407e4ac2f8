"""From runs to figures: sweeps, measures at equal compute, differences clip by clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from quality.stats import at_share, bootstrap, distance_to_a_run, paired, told

Record = dict[str, Any]
# a clip's runs of one policy, in the order of its sweep
Sweep = Sequence[Record]

TARGETS = (0.30, 0.40, 0.50)
# by the time of the processor, which other work on the machine disturbs least
CPU_TIME = "cpu_share"
AXES: dict[str, Callable[[Record], float]] = {
    "compute_share": lambda r: float(r["compute_share"]),
    "flops_share": lambda r: float(r["flops_share"]),
    CPU_TIME: lambda r: r["cpu_seconds"] / r["uncached_cpu_seconds"],
}
MEASURES: dict[str, Callable[[Record], float | None]] = {
    "psnr": lambda r: r["psnr"],
    "ssim": lambda r: r["ssim"],
    "ssim_loss": lambda r: 1 - r["ssim"],
    "temporal_psnr": lambda r: r["temporal_psnr"],
    "psnr_moving": lambda r: r["psnr_moving"],
    "psnr_static": lambda r: r["psnr_static"],
    "region_gap": lambda r: r["region_gap"],
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
        known = [(x, y) for x, y in points if y is not None]
        found.append(at_share(known, share) if len(known) == len(points) else None)
    return found


def reusing(sweep: Sweep) -> Sweep:
    """The runs that reused anything. One that did not is equal to the uncached video, for which
    there are no decibels."""
    return [r for r in sweep if r["compute_share"] < 1]


def policy_figures(sweeps: Sequence[Sweep]) -> dict[str, Any]:
    """A policy's sweep, averaged over clips run by run, and its measures at equal compute."""
    runs = []
    for same in zip(*sweeps, strict=True):
        drawn = reusing(same)
        row: dict[str, Any] = {
            axis: told(bootstrap([at(r) for r in drawn])) for axis, at in AXES.items()
        }
        for name, measure in MEASURES.items():
            values = [measure(r) for r in drawn]
            row[name] = told(bootstrap([v for v in values if v is not None]))
        runs.append(row)

    def of_clips(name: str, share: float, axis: str) -> dict[str, Any] | None:
        values = at_equal_compute(sweeps, name, share, axis)
        return told(bootstrap([v for v in values if v is not None]))

    nearest = {
        level(share): round(
            fmean(
                distance_to_a_run([r["compute_share"] for r in reusing(s)], share) for s in sweeps
            ),
            4,
        )
        for share in TARGETS
    }
    return {"sweep": runs, "at": _everywhere(of_clips), "distance_to_a_run": nearest}


def difference_figures(ours: Sequence[Sweep], theirs: Sequence[Sweep]) -> dict[str, Any]:
    """What the first policy has over the second on the same clips at equal compute."""

    def of_pairs(name: str, share: float, axis: str) -> dict[str, Any] | None:
        return told(
            paired(
                at_equal_compute(ours, name, share, axis),
                at_equal_compute(theirs, name, share, axis),
            )
        )

    return _everywhere(of_pairs)


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
