"""Does it pay to compute rows of answers, in place of whole evaluations? On small models.

    python tests/bench/tokens/run.py clips
    python tests/bench/tokens/run.py table      tests/bench/results/token_answers.json

Finished runs are kept in `--store`, a line each, and not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common
import torch
from quality.metrics import psnr
from quality.stats import bootstrap, paired
from run_store import Store
from tokens.clips import CHOSEN_ON, FRAMES, MODELS, STEPS, clip
from tokens.methods import DEEP, LEVEL, TODAY, WHOLE, WORKS, gate, ways
from tokens.sample import sample

FIRST_SEED = 3100


def clips(store: Store, models: list[str], count: int) -> None:
    """Every way on every clip; one clip of all models before the next."""
    for name in models:
        gate(clip(name, FIRST_SEED))
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        for name in models:
            shown = clip(name, seed)
            uncached = shown.decode(sample(shown, (1.0,) * STEPS, None).latents)
            for work in WORKS:
                for what, run in ways(work).items():
                    key = f"{name}|{seed}|{work}|{what}"
                    if key in store.records:
                        continue
                    made = run(shown)
                    told = psnr(uncached, shown.decode(made.latents))
                    store.add({"key": key, "psnr": told, "work": made.work})
            print(f"{name} {seed}", flush=True)


def table(store: Store) -> dict[str, Any]:
    """Means over the clips, and differences clip by clip to what the product has."""
    runs: dict[tuple[str, str, str], dict[int, Any]] = defaultdict(dict)
    for key, record in store.records.items():
        name, seed, work, what = key.split("|")
        runs[name, work, what][int(seed)] = record
    found: dict[str, Any] = {}
    for (name, work, what), made in sorted(runs.items()):
        seeds = sorted(made)
        values = [made[s]["psnr"] for s in seeds]
        found.setdefault(name, {}).setdefault(work, {})[what] = {
            "work": round(sum(made[s]["work"] for s in seeds) / len(seeds), 4),
            "psnr": bootstrap(values),
            "over": {
                other: paired(values, [runs[name, work, other][s]["psnr"] for s in seeds])
                for other in (WHOLE, TODAY, LEVEL)
                if other != what
            },
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", choices=["clips", "table"])
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--store", type=Path, default=common.ROOT / "out" / "tokens.jsonl")
    args = parser.parse_args()
    store = Store(args.store)
    torch.set_num_threads(1)
    if args.part == "clips":
        with torch.no_grad():
            clips(store, args.models, args.clips)
        return
    data = {
        "environment": common.environment(),
        "commands": [f"python tests/bench/tokens/run.py {part}" for part in ("clips", "table")],
        "chosen_on": list(CHOSEN_ON),
        "steps": STEPS,
        "frames": FRAMES,
        "deep": DEEP,
        "models": table(store),
    }
    path = common.RESULTS / "token_answers.json"
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
