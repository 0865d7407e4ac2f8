"""How far the seconds that the nodes estimate are from measured ones.

    python tests/bench/estimates.py [--json FILE] [--server http://127.0.0.1:8188]

The shipped model on the CPU, ten runs with MotionCache, each between two without it, whose mean is
what was measured. What else the machine does counts: the load is told with each run.

With `--server` it is the first demo, sent to that ComfyUI as the page sends it: the estimate is
the report's of the run with MotionCache, what was measured is the run without it of the same
prompt, and `shown` is the line that Compare puts over its pictures. Either way a first run is made
and left out: it is slow for reasons of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import common
import torch
from estimates_page import Page
from motioncache_pack import kernels
from motioncache_pack.motioncache_core import PRESETS, RunFacts
from motioncache_pack.motioncache_core.demo import checkpoint, clips, scenes
from motioncache_pack.motioncache_core.demo.sampler import SampleOptions, cached_sample, sample
from motioncache_pack.motioncache_core.report.run_summary import RunSummary

RUNS = (*(("balanced", n) for n in range(4)), *(("fast", n) for n in range(3)),
        *(("quality", n) for n in range(3)))  # fmt: skip
FRAMES, STEPS = 5, 24
WITHIN, WANTED = 0.15, 9
# seed of the run that is left out
FIRST = 1000


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
    return row(preset, seed, trace.seconds, RunSummary(trace).seconds_without(), measured)


def row(
    preset: str, seed: int, seconds: float, estimated: float | None, measured: float
) -> dict[str, Any]:
    """A run in the result file."""
    if estimated is None:
        raise RuntimeError(f"nothing was estimated with {preset}, seed {seed}")
    return {
        "preset": preset,
        "seed": seed,
        "seconds": round(seconds, 3),
        "estimated_without": round(estimated, 3),
        "measured_without": round(measured, 3),
        "off_by": round(estimated / measured - 1, 4),
        "load": round(os.getloadavg()[0], 1),
    }


def on_page(page: Page, preset: str, seed: int) -> dict[str, Any]:
    """The same of a prompt."""
    told = page.run(preset, seed, STEPS)
    found = row(preset, seed, told.seconds, told.estimated, told.measured)
    return {**found, "shown": told.shown}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--server", metavar="URL", help="a ComfyUI with nothing else to do")
    args = parser.parse_args()
    torch.set_num_threads(1)
    measure = (
        partial(one, checkpoint.load())
        if args.server is None
        else partial(on_page, Page(args.server))
    )
    with torch.no_grad():
        # the first run after a start is slow for reasons of its own
        measure("balanced", FIRST)
        runs = [measure(preset, seed) for preset, seed in RUNS]
    near = sum(abs(run["off_by"]) <= WITHIN for run in runs)
    found = {
        "environment": common.environment(),
        "command": f"python tests/bench/estimates.py{' --server URL' if args.server else ''}",
        **({} if args.server else {"frames": FRAMES}),
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
