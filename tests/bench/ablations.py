"""What each setting of policy motion is worth: one is changed at a time, on the demo model.

    python tests/bench/ablations.py --out out/quality [--base shares] [--quick] [--modes MODE ...]

The base is what the presets share, or `SHARES` of `quality_policies.py`. That one is also held
against whole evaluations with the same forecast and against random tokens, the two that computing
tokens in parts has to beat. Every variant is swept over thresholds and held against the base
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
from quality_policies import (
    CACHED,
    NONE,
    OURS,
    RANDOM,
    SHARES,
    Job,
    MotionCacheSettings,
    never,
    sweep,
    whole,
)
from quality_report import grid_of_panels, markdown

SEEDS = 12
BASE = "base"
BASES = {"presets": OURS, "shares": SHARES}
# the base's own values are left out
FACTORS: dict[str, tuple[Any, ...]] = {
    "motion_sensitivity": (0.0, 0.15, 0.3, 0.5, 0.7, 1.0),
    "uniform_updates": (0, 1, 3, 6),
    "warmup_steps": (2, 3, 5, 8),
    "agreement": (0.0, 0.25, 0.5, 0.75),
    "min_update_ratio": (0.0, 0.2, 0.4, 0.6),
    "motion_source": ("predicted_x0", "features", "residual"),
    "update_share": (0.0, 0.25, 0.5, 0.75),
    "cfg_mask": ("shared", "separate"),
    "max_stale_steps": (0, 4, 8, 16),
    "forecast": (0.0, 0.5, 0.75, 1.0),
    "kv_forecast": (0.0, 0.5, 0.75, 1.0),
    "dense_last": (True, False),
}
QUICK_FACTORS = {
    "presets": ("motion_sensitivity", "uniform_updates", "forecast"),
    "shares": ("motion_sensitivity", "update_share", "kv_forecast"),
}
# not used where tokens are computed in shares
UNUSED = {"presets": (), "shares": ("agreement", "min_update_ratio")}
# out of `quality.py`'s sweep, so that the base's runs are its runs; and less, as a variant may
# compute little at thresholds at which the base computes much
SWEEP = (0.5, 1.5, 2.2, 3.2, 4.6, 7.0, 13.0)
QUICK_SWEEP = (0.5, 1.5, 3.2, 13.0)


def label(factor: str, value: Any) -> str:
    """A variant's name."""
    return f"{factor} {value}"


def variants(quick: bool, name: str = "presets") -> dict[str, list[str]]:
    """The variants of each factor; quick ones are the ends of three factors."""
    found = {}
    for factor, values in FACTORS.items():
        others = [v for v in values if v != asdict(BASES[name])[factor]]
        if quick:
            others = [others[0], others[-1]] if factor in QUICK_FACTORS[name] else []
        if others and factor not in UNUSED[name]:
            found[factor] = [label(factor, v) for v in others]
    return found


def rivals(mode: str, name: str) -> dict[str, tuple[str, MotionCacheSettings]]:
    """What the base has to beat, by name: kind and settings."""
    if name == "presets":
        return {}
    base = BASES[name]
    return {
        f"policy {whole(mode)}": (CACHED, replace(base, policy=whole(mode))),
        "policy random": (RANDOM, base),
    }


def grid(case: Case, quick: bool, name: str = "presets") -> dict[str, list[Job]]:
    """The runs of a clip by variant; the first one is without reuse."""
    wanted = {v for names in variants(quick, name).values() for v in names}
    worth, base = QUICK_SWEEP if quick else SWEEP, BASES[name]
    jobs = {NONE: [never(base)], BASE: sweep(case, CACHED, base, worth)}
    for rival, (kind, settings) in rivals(case.mode, name).items():
        jobs[rival] = sweep(case, kind, settings, worth)
    for factor, values in FACTORS.items():
        for value in values:
            if label(factor, value) in wanted:
                changed = replace(base, **{factor: value})
                jobs[label(factor, value)] = sweep(case, CACHED, changed, worth)
    return jobs


def main() -> None:
    told = parser((__doc__ or "").splitlines()[0], SEEDS)
    told.add_argument("--base", choices=list(BASES), default="presets")
    args = parsed(told)
    grids = [
        (clip, grid(clip, args.quick, args.base))
        for mode in args.modes
        for clip in cases(mode, range(args.seeds))
    ]
    store, checked = make(grids, args)
    factors = variants(args.quick, args.base)
    name = "ablations" if args.base == "presets" else f"ablations_{args.base}"
    figures: dict[str, Any] = {}
    tables = []
    for mode in args.modes:
        compared = [(BASE, rival) for rival in rivals(mode, args.base)]
        compared += [(variant, BASE) for names in factors.values() for variant in names]
        figures[mode] = analysis(sweeps(grids, store, mode), compared)
        tables.append(markdown(mode, figures[mode]))
        policies = figures[mode]["policies"]
        grid_of_panels(
            f"PSNR in dB; {mode}, {args.seeds} clips, {OPTIONS.steps} steps",
            args.out / f"{name}_{mode.replace(', ', '_')}.png",
            {
                factor: ({variant: policies[variant] for variant in (BASE, *names)}, "psnr")
                for factor, names in factors.items()
            },
            legends=True,
        )
    write(name, "Ablations", args, figures, "\n\n".join(tables), checked)


if __name__ == "__main__":
    main()
