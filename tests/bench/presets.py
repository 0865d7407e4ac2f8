"""How much each preset computes and how close it stays to the uncached video, on the demo model.

    python tests/bench/presets.py [--json FILE] [--set NAME=VALUE ...]

PSNR of the decoded clip against the same sampler without cache in the same run, mean over scenes
and seeds. A small model says little about a large one; it says which way a setting goes.
"""

from __future__ import annotations

import argparse
import ast
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import environment, save
from motioncache_pack import kernels
from motioncache_pack.motioncache_core import PRESETS, MotionCacheSettings, RunFacts
from motioncache_pack.motioncache_core.demo import checkpoint, clips, codec, scenes
from motioncache_pack.motioncache_core.demo.sampler import SampleOptions, cached_sample, sample
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.motioncache_core.report import compute_share
from quality.metrics import psnr
from torch import Tensor

FRAMES = 9


class Clips:
    """Uncached clips to compare with, made once."""

    def __init__(self, model: DemoWan, steps: int, seeds: int) -> None:
        self.model, self.steps = model, steps
        self.options = SampleOptions(steps=steps, shift=checkpoint.SHIFT)
        self.plain: list[tuple[clips.Clip, Tensor, Tensor]] = []
        for seed in range(seeds):
            for scene in scenes.SCENES.values():
                clip = clips.clip(scene, FRAMES, take=seed)
                noise = clip.noise(seed)
                latents = sample(model, *clip.text, noise, self.options, conditions=clip.conditions)
                self.plain.append((clip, noise, latents))

    def measure(self, settings: MotionCacheSettings) -> dict[str, float]:
        """Mean compute share and PSNR of one setting."""
        facts = RunFacts(sigmas=self.options.sigmas(), profile=checkpoint.profile())
        shares, quality = [], []
        for clip, noise, latents in self.plain:
            out, trace = cached_sample(
                self.model, *clip.text, noise, self.options, settings, kernels, facts,
                conditions=clip.conditions,
            )  # fmt: skip
            shares.append(compute_share(trace))
            quality.append(psnr(codec.decode(latents), codec.decode(out)))
        return {
            "compute_share": round(statistics.fmean(shares), 4),
            "psnr_db": round(statistics.fmean(quality), 2),
            "psnr_db_worst": round(min(quality), 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE for all presets")
    parser.add_argument("--presets", nargs="*", default=list(PRESETS), choices=list(PRESETS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    changes: dict[str, Any] = {}
    for pair in args.set:
        name, _, value = pair.partition("=")
        changes[name] = ast.literal_eval(value)
    clips = Clips(checkpoint.load(), args.steps, args.seeds)
    rows = {name: MotionCacheSettings.preset(name, **changes) for name in args.presets}
    # controls: as many random tokens, and as many in whole evaluations
    balanced = MotionCacheSettings.preset("balanced", **changes)
    rows |= {
        "balanced, random tokens": replace(balanced, policy="random"),
        "balanced, whole evaluations": replace(balanced, policy="step"),
    }
    result = {}
    for name, settings in rows.items():
        row = clips.measure(settings)
        result[name] = row
        print(
            f"{name:27} {row['compute_share']:6.1%} of the tokens, {row['psnr_db']:6.2f} dB "
            f"(worst {row['psnr_db_worst']:.2f})",
            flush=True,
        )
    if args.json:
        data = {
            "bench": "presets",
            "steps": args.steps,
            "clips": len(clips.plain),
            "presets": result,
            "environment": environment(),
        }
        save(args.json, data)


if __name__ == "__main__":
    main()
