"""What each setting of policy motion is worth: one is changed at a time, on model tracks.

    python tests/bench/quality/ablations.py --out out/quality [--base paper] [--quick] [--publish]

The base is what the presets share, swept over budgets, or the published method, swept over
thresholds. Every variant is swept like it and held against the base on the same clips at equal
compute. Besides settings there are variants that the pack has none for (`variants.py`).
Same machinery, gate and outputs as `run.py`; a bench that was stopped goes on where it was.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common  # noqa: F401
from motioncache_pack.motioncache_core import MotionCacheSettings
from motioncache_pack.motioncache_core.policy.compute_budget import SHARE
from quality.analysis import analysis
from quality.bench import make, parsed, parser, result_name, sweeps, write
from quality.cases import FORCING, ORDINARY, Case
from quality.policies import CACHED, NONE, OURS, PRESETS, Job, sweep, whole, without
from quality.report import grid_of_panels, markdown
from quality.variants import LAST, LATENTS, ORDER, UNCLEAN

SEEDS = {"tracks": 6, "confirmation": 6}
BASE = "base"
WHOLE, THRESHOLD = "whole evaluations", "a threshold, no budget"
BASES = {"ours": OURS, "paper": PRESETS["paper"]}
# the base's own values are left out
FACTORS: dict[str, dict[str, tuple[Any, ...]]] = {
    "ours": {
        "motion_source": ("predicted_x0", "features", "residual"),
        "motion_sensitivity": (0.0, 0.2, 0.4, 0.7, 1.0),
        "update_share": (0.4, 0.6, 0.95),
        "warmup_steps": (1, 2, 3, 4),
        "uniform_updates": (0, 1, 3),
        "max_stale_steps": (0, 4, 8, 16),
        "forecast": (0.0, 0.5, 0.75, 1.0),
        "kv_forecast": (0.0, 0.5, 1.0),
        "correction": (0.0, 0.5, 1.0),
        "cfg_mask": ("shared", "separate"),
        "dense_last": (True, False),
    },
    "paper": {
        "motion_source": ("predicted_x0", "features", "residual"),
        "motion_sensitivity": (0.0, 0.2, 0.4, 0.7, 1.0),
        "uniform_updates": (0, 1, 3, 6),
        "warmup_steps": (3, 5, 8),
        "agreement": (0.0, 0.25, 0.5, 0.75),
        "min_update_ratio": (0.0, 0.2, 0.4, 0.6),
        "max_stale_steps": (0, 4, 8),
        "forecast": (0.0, 1.0),
        "kv_forecast": (0.0, 0.5),
        "correction": (0.0, 1.0),
        "cfg_mask": ("shared", "separate"),
        "dense_last": (True, False),
    },
}
QUICK_FACTORS = {
    "ours": ("motion_source", "update_share", "forecast"),
    "paper": ("motion_source", "motion_sensitivity", "uniform_updates"),
}


def others(mode: str, name: str) -> dict[str, dict[str, tuple[str, MotionCacheSettings]]]:
    """Kind and settings of the variants that are no setting's other value, by factor."""
    base = BASES[name]
    seen = replace(base, motion_source="predicted_x0")
    found = {"motion_source": {LATENTS: (LATENTS, seen), LAST: (LAST, seen)}}
    if name == "ours":
        by_step = replace(base, policy=whole(mode))
        found["whole evaluations"] = {WHOLE: (CACHED, by_step)}
        if mode == ORDINARY:
            # it knows no evaluations that compute one chunk and reuse another, as in forcing
            found["whole evaluations"][ORDER] = ORDER, by_step
        by_change = replace(base, compute_budget=0.0, update_share=SHARE)
        found["budget"] = {THRESHOLD: (CACHED, by_change)}
    if mode == FORCING:
        found["clean evaluation"] = {UNCLEAN: (UNCLEAN, base)}
    return found


def variants(
    mode: str, quick: bool, name: str = "ours"
) -> dict[str, dict[str, tuple[str, MotionCacheSettings]]]:
    """Kind and settings of the variants of each factor; quick ones are the ends of three
    factors."""
    base = BASES[name]
    found: dict[str, dict[str, tuple[str, MotionCacheSettings]]] = {}
    for factor, values in FACTORS[name].items():
        changed = [v for v in values if v != asdict(base)[factor]]
        if quick:
            changed = [changed[0], changed[-1]] if factor in QUICK_FACTORS[name] else []
        if changed:
            found[factor] = {
                f"{factor} {v}": (CACHED, replace(base, **{factor: v})) for v in changed
            }
    for factor, more in ({} if quick else others(mode, name)).items():
        found.setdefault(factor, {}).update(more)
    return found


def grid(case: Case, quick: bool, name: str = "ours") -> dict[str, list[Job]]:
    """The runs of a clip by variant; the first one is without reuse."""
    told = {BASE: (CACHED, BASES[name])}
    for more in variants(case.mode, quick, name).values():
        told |= more
    # few points of each sweep, and the same ones for all: what counts is the difference
    swept = {variant: sweep(case, *given, True) for variant, given in told.items()}
    return {NONE: [without(case.mode, BASES[name])], **swept}


def brief(figures: dict[str, Any]) -> dict[str, Any]:
    """The differences in PSNR, which is all that is published of so many variants."""
    differences = []
    for d in figures["differences"]:
        shares = d["at"]["compute_share"]
        psnr = {share: {"psnr": found["psnr"]} for share, found in shares.items()}
        differences.append(d | {"at": {"compute_share": psnr}})
    return {"clips": figures["clips"], "differences": differences}


def main() -> None:
    told = parser((__doc__ or "").splitlines()[0], SEEDS)
    told.add_argument("--base", choices=list(BASES), default="ours")
    args = parsed(told)
    base = args.base
    grids, store, checked = make(args, args.modes, lambda clip: grid(clip, args.quick, base))
    name = result_name("ablations" if base == "ours" else f"ablations_{base}", args)
    figures: dict[str, Any] = {}
    tables = []
    for mode in args.modes:
        factors = variants(mode, args.quick, base)
        compared = [(variant, BASE) for names in factors.values() for variant in names]
        compared += [(ORDER, WHOLE)] if any(ORDER in names for names in factors.values()) else []
        figures[mode] = analysis(sweeps(grids, store, mode), compared)
        tables.append(markdown(mode, figures[mode]))
        policies = figures[mode]["policies"]
        grid_of_panels(
            f"PSNR in dB; {mode}, {args.seeds} clips, {args.steps} steps",
            args.out / f"{name}_{mode.replace(', ', '_')}.png",
            {
                factor: ({variant: policies[variant] for variant in (BASE, *names)}, "psnr")
                for factor, names in factors.items()
            },
            legends=True,
        )
    short = {mode: brief(figures[mode]) for mode in args.modes}
    write(name, "Ablations", args, figures, "\n\n".join(tables), checked, brief=short)


if __name__ == "__main__":
    main()
