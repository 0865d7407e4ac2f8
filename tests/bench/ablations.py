"""What each setting of policy motion is worth: one is changed at a time, on the demo model.

    python tests/bench/ablations.py --out out/quality [--quick] [--modes MODE ...]

The base is what the presets share. Every variant is swept over thresholds and held against the base
on the same clips at equal compute. Same machinery, gate and outputs as `quality.py`, whose runs it
shares when it writes to the same folder; a bench that was stopped goes on where it was.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from quality_analysis import analysis
from quality_bench import make, parsed, parser, sweeps, write
from quality_cases import OPTIONS, Case, cases
from quality_policies import CACHED, NONE, OURS, Job, never, sweep
from quality_report import grid_of_panels, markdown

SEEDS = 12
BASE = "base"
# the base's own values are left out
FACTORS: dict[str, tuple[Any, ...]] = {
    "motion_sensitivity": (0.0, 0.15, 0.3, 0.5, 0.7, 1.0),
    "uniform_updates": (0, 1, 3, 6),
    "warmup_steps": (2, 3, 5, 8),
    "agreement": (0.0, 0.25, 0.5, 0.75),
    "min_update_ratio": (0.0, 0.2, 0.4, 0.6),
    "motion_source": ("predicted_x0", "features"),
    "cfg_mask": ("shared", "separate"),
    "max_stale_steps": (0, 4, 8, 16),
    "forecast": (0.0, 0.5, 0.75, 1.0),
    "dense_last": (True, False),
}
QUICK_FACTORS = ("motion_sensitivity", "uniform_updates", "forecast")
# out of `quality.py`'s sweep, so that the base's runs are its runs; and less, as a variant may
# compute little at thresholds at which the base computes much
SWEEP = (0.5, 1.5, 2.2, 3.2, 4.6, 7.0, 13.0)
QUICK_SWEEP = (0.5, 1.5, 3.2, 13.0)


def label(factor: str, value: Any) -> str:
    """A variant's name."""
    return f"{factor} {value}"


def variants(quick: bool) -> dict[str, list[str]]:
    """The variants of each factor; quick ones are the ends of three factors."""
    found = {}
    for factor, values in FACTORS.items():
        others = [v for v in values if v != asdict(OURS)[factor]]
        if quick:
            others = [others[0], others[-1]] if factor in QUICK_FACTORS else []
        if others:
            found[factor] = [label(factor, v) for v in others]
    return found


def grid(case: Case, quick: bool) -> dict[str, list[Job]]:
    """The runs of a clip by variant; the first one is without reuse."""
    wanted = {name for names in variants(quick).values() for name in names}
    worth = QUICK_SWEEP if quick else SWEEP
    jobs = {NONE: [never(OURS)], BASE: sweep(case, CACHED, OURS, worth)}
    for factor, values in FACTORS.items():
        for value in values:
            if label(factor, value) in wanted:
                changed = replace(OURS, **{factor: value})
                jobs[label(factor, value)] = sweep(case, CACHED, changed, worth)
    return jobs


def main() -> None:
    args = parsed(parser((__doc__ or "").splitlines()[0], SEEDS))
    grids = [
        (clip, grid(clip, args.quick))
        for mode in args.modes
        for clip in cases(mode, range(args.seeds))
    ]
    store, checked = make(grids, args)
    factors = variants(args.quick)
    compared = [(name, BASE) for names in factors.values() for name in names]
    figures: dict[str, Any] = {}
    tables = []
    for mode in args.modes:
        figures[mode] = analysis(sweeps(grids, store, mode), compared)
        tables.append(markdown(mode, figures[mode]))
        policies = figures[mode]["policies"]
        grid_of_panels(
            f"PSNR in dB; {mode}, {args.seeds} clips, {OPTIONS.steps} steps",
            args.out / f"ablations_{mode.replace(', ', '_')}.png",
            {
                factor: ({name: policies[name] for name in (BASE, *names)}, "psnr")
                for factor, names in factors.items()
            },
            legends=True,
        )
    write("ablations", "Ablations", args, figures, "\n\n".join(tables), checked)


if __name__ == "__main__":
    main()
