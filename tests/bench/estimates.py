"""How far the seconds that the nodes estimate are from measured ones.

    python tests/bench/estimates.py [--json FILE]

The shipped model on the CPU, ten runs with MotionCache, each between two without it, whose mean is
what was measured. What else the machine does counts: the load is told with each run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import common
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core import PRESETS, RunFacts
from motioncache_pack.motioncache_core.demo import checkpoint, clips, scenes
from motioncache_pack.motioncache_core.demo.sampler import SampleOptions, cached_sample, sample
from motioncache_pack.motioncache_core.report.run_summary import RunSummary

RUNS = (*(("balanced", n) for n in range(4)), *(("fast", n) for n in range(3)),
        *(("quality", n) for n in range(3)))  # fmt: skip
FRAMES, STEPS = 5, 24
WITHIN, WANTED = 0.15, 9


def took(run: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    out = run()
    return out, time.perf_counter() - began


def one(model: Any, preset: str, seed: int) -> dict[str, Any]:
    """Estimated and measured seconds of one run."""
    scene = list(scenes.SCENES.values())[seed % len(scenes.SCENES)]
    clip = clips.clip(scene, FRAMES, seed)
    noise, shown = clip.noise(seed), {"conditions": clip.conditions}
    options = SampleOptions(steps=STEPS, shift=checkpoint.SHIFT)
    facts = RunFacts(sigmas=options.sigmas(), profile=checkpoint.profile())

    def plain() -> float:
        return took(lambda: sample(model, *clip.text, noise, options, **shown))[1]

    before = plain()
    (_, trace), _ = took(
        lambda: cached_sample(
            model, *clip.text, noise, options, PRESETS[preset], kernels, facts, **shown
        )
    )
    measured = (before + plain()) / 2
    estimated = RunSummary(trace).seconds_without()
    if estimated is None:
        raise RuntimeError(f"nothing was estimated with {preset}, seed {seed}")
    return {
        "preset": preset,
        "seed": seed,
        "seconds": round(trace.seconds, 3),
        "estimated_without": round(estimated, 3),
        "measured_without": round(measured, 3),
        "off_by": round(estimated / measured - 1, 4),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = checkpoint.load()
    with torch.no_grad():
        # the first run after a start is slow for reasons of its own
        one(model, "balanced", 0)
        runs = [one(model, preset, seed) for preset, seed in RUNS]
    near = sum(abs(run["off_by"]) <= WITHIN for run in runs)
    found = {
        "environment": common.environment(),
        "command": "python tests/bench/estimates.py",
        "frames": FRAMES,
        "steps": STEPS,
        "within": WITHIN,
        "near": near,
        "runs": runs,
    }
    words = json.dumps(found, indent=1) + "\n"
    if args.json is not None:
        args.json.write_text(words, "utf-8")
    print(words)
    return 0 if near >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
