"""How much each preset computes and how close it stays to the uncached video, on model tracks.

    python tests/bench/presets.py [--json FILE] [--set NAME=VALUE ...]

PSNR of the decoded clip against the same sampler without cache in the same run, mean over scenes
and seeds. A small model says little about a large one; it says which way a setting goes.
"""

from __future__ import annotations

import argparse
import ast
import os
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import environment, save
from motioncache_pack.motioncache_core import PRESETS, MotionCacheSettings
from motioncache_pack.motioncache_core.demo import codec, scenes
from motioncache_pack.motioncache_core.report.compute_share import compute_share
from quality import cell_tracks
from quality.cases import FRAMES, MODEL, ORDINARY, STEPS, Cached, ordinary
from quality.metrics import psnr
from torch import Tensor


def measure(settings: MotionCacheSettings, made: list[tuple[Tensor, Cached]]) -> dict[str, float]:
    """Mean compute share and PSNR of one setting, on uncached clips and how to sample them."""
    shares, decibels = [], []
    for video, cached in made:
        latents, trace = cached(settings)
        shares.append(compute_share(trace))
        decibels.append(psnr(video, codec.decode(latents)))
    return {
        "compute_share": round(statistics.fmean(shares), 4),
        "psnr_db": round(statistics.fmean(decibels), 2),
        "psnr_db_worst": round(min(decibels), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE for all presets")
    cached = [name for name in PRESETS if name != "off"]
    parser.add_argument("--presets", nargs="*", default=cached, choices=cached)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    changes: dict[str, Any] = {}
    for pair in args.set:
        name, _, value = pair.partition("=")
        changes[name] = ast.literal_eval(value)
    os.environ[MODEL], os.environ[STEPS] = "tracks", str(args.steps)
    made = []
    for seed in range(args.seeds):
        for scene in scenes.SCENES.values():
            clip = cell_tracks.clip(scene, FRAMES[ORDINARY], take=seed)
            uncached, cached = ordinary(clip, clip.noise(seed))
            made.append((codec.decode(uncached()), cached))
    rows = {name: MotionCacheSettings.preset(name, **changes) for name in args.presets}
    # controls: as many random tokens, and as many in whole evaluations
    motion = MotionCacheSettings.preset("motion", **changes)
    rows |= {
        "motion, random tokens": replace(motion, policy="random"),
        "motion, whole evaluations": replace(motion, policy="step"),
    }
    result = {}
    for name, settings in rows.items():
        result[name] = row = measure(settings, made)
        print(
            f"{name:27} {row['compute_share']:6.1%} of the tokens, {row['psnr_db']:6.2f} dB "
            f"(worst {row['psnr_db_worst']:.2f})",
            flush=True,
        )
    if args.json:
        data = {
            "bench": "presets",
            "steps": args.steps,
            "clips": len(made),
            "presets": result,
            "environment": environment(),
        }
        save(args.json, data)


if __name__ == "__main__":
    main()
