"""Time at equal quality: foretold answers beside what the presets carried before, and fewer steps.

    COMFYUI_PATH=... PYTHONPATH=tests/support/torch_shims python tests/bench/answers/clock.py

24 Euler steps inside ComfyUI on the CPU. The processor's seconds of every run, the ways in turn
on every clip, so that what a noisy machine does to one it does to all. Writes
`results/answers_clock.json`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common
import timing
import torch
from answers.clips import MODELS, clip
from answers.methods import METHODS, OURS, Run, cached, uncached
from answers.run import FIRST_SEED, gate
from quality.metrics import psnr

STEPS = 24
COUNTS = (6, 7, 8, 10, 12, 14)
# balanced, as it was: what it computed of 24
BEFORE = ("residual", 10)

# (way, evaluations) to what each clip has
Figures = dict[tuple[str, int], list[float]]


def measured(name: str, clips: int) -> tuple[Figures, Figures]:
    """Seconds and PSNR of every way at every count, clip by clip."""
    seconds: Figures = defaultdict(list)
    quality: Figures = defaultdict(list)
    for seed in range(FIRST_SEED, FIRST_SEED + clips):
        shown = clip(name, seed)
        whole = uncached(shown, "euler", STEPS).video
        runs: dict[tuple[str, int], Any] = {
            ("uncached", STEPS): lambda s=shown: uncached(s, "euler", STEPS)
        }
        for n in COUNTS:
            runs["fewer steps", n] = lambda s=shown, n=n: uncached(s, "euler", n)
            for way, settings in (("ours", OURS), ("residual", METHODS["residual"])):
                runs[way, n] = lambda s=shown, n=n, settings=settings: cached(
                    s, "euler", STEPS, settings, n / STEPS
                )
        for key, run in runs.items():
            made: list[Run] = []
            seconds[key].append(timing.once(lambda r=run, m=made: m.append(r()), "cpu"))
            quality[key].append(psnr(whole, made[0].video))
        print(f"{name} {seed}", flush=True)
    return seconds, quality


def at_quality(found: Sequence[tuple[float, float]], wanted: float) -> float | None:
    """The least time of those at least as close; None where none is.

    Args:
        found: time and PSNR of each.
    """
    times = [time for time, close in found if close >= wanted]
    return min(times, default=None)


def summary(seconds: Figures, quality: Figures) -> dict[str, Any]:
    """Each way's share of the uncached time and mean PSNR, and the time that is enough to be as
    close as `balanced` was."""
    share = {
        key: statistics.median(
            one / whole for one, whole in zip(found, seconds["uncached", STEPS], strict=True)
        )
        for key, found in seconds.items()
    }
    close = {key: statistics.fmean(found) for key, found in quality.items() if key[0] != "uncached"}
    wanted = close[BEFORE]
    rows = {
        way: {
            str(n): {"time": round(share[way, n], 4), "psnr": round(close[way, n], 2)}
            for n in COUNTS
        }
        for way in ("ours", "residual", "fewer steps")
    }
    enough = {
        way: at_quality([(share[way, n], close[way, n]) for n in COUNTS], wanted) for way in rows
    }
    return {"wanted": round(wanted, 2), "before": round(share[BEFORE], 4), **enough, "at": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--clips", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    models = {}
    with torch.inference_mode():
        for name in args.models:
            gate(name)
            models[name] = summary(*measured(name, args.clips))
    about = {"steps": STEPS, "clips": args.clips, "before": f"{BEFORE[1]} of {STEPS}"}
    data = {"environment": common.environment(), **about, "models": models}
    common.save(common.RESULTS / "answers_clock.json", data)


if __name__ == "__main__":
    main()
