"""What an evaluation with MotionCache costs, as a share of one of the network alone.

    python tests/bench/engine.py [--json FILE] [--geometry NAME ...] [--rounds N] [--smoke]

On CUDA our Wan class at the full size of Wan 1.3B and 14B with random weights, at 832x480 and
1280x720, 81 frames; on a CPU small ones of growing width, or where COMFYUI_PATH is set ComfyUI's
HunyuanVideo, Wan VACE and Wan Animate at one of these widths. The settings are the presets'; random
tokens are dictated to the real policy. Ratios of medians within one run, the kinds measured in
turn. The ideal of an active share r is the network without its blocks plus r of the blocks: linear
layers and attention both shrink with the active rows. Blocks of ComfyUI's networks have text to
work on, whatever is active: there it is the network whose blocks run on one row of the video, and r
of what that is short of the network alone. What is above it is MotionCache's own cost, or that of
smaller matrices; the share of its ops is measured apart, in evaluations of their own.
Refuses to print a number when the partial path does not reproduce the dense one.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import environment, rows_of_others, save
from engine_host import known as host_geometries
from engine_model import SMALL, SMOKE, WAN, Geometry, Runner, gate
from timing import once

SHARES = {
    "dense": 1.0,
    "active 85%": 0.85,
    "active 50%": 0.5,
    "active 25%": 0.25,
    "active 10%": 0.1,
    "reuse": 0.0,
}


def shares(seconds: dict[str, list[float]], computed: dict[str, float]) -> dict[str, Any]:
    """Medians as shares of the network alone, beside the ideal."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    base, rest = median["unpatched"], median["without blocks"]
    # where no block runs, none does what it does for the text either
    least = median.get("one row", rest)
    ideal = {
        name: ((least + r * (base - least)) if r else rest) / base for name, r in computed.items()
    }
    measured = {name: value / base for name, value in median.items()}
    return {
        "rounds": len(seconds["unpatched"]),
        "seconds": {name: [round(v, 6) for v in values] for name, values in seconds.items()},
        "share_of_unpatched": {name: round(value, 5) for name, value in measured.items()},
        "computed": {name: round(value, 5) for name, value in computed.items()},
        "ideal_share": {name: round(value, 5) for name, value in ideal.items()},
        "above_ideal": {name: round(measured[name] - ideal[name], 5) for name in ideal},
    }


def show(name: str, row: dict[str, Any]) -> None:
    print(f"{name}: shares of an evaluation of the network alone, {row['rounds']} rounds (median)")
    for kind, value in row["share_of_unpatched"].items():
        ideal = row["ideal_share"].get(kind)
        ops = sum(row.get("ops_share", {}).get(kind, {}).values())
        told = "" if ideal is None else f"  ideal {ideal:7.2%}  above it {value - ideal:+7.2%}"
        told += f"  our ops {ops:7.3%}" if ops else ""
        seconds = statistics.median(row["seconds"][kind])
        print(f"  {kind:15}{seconds * 1e3:11.2f} ms {value:8.2%}{told}")
    if "peak_bytes" in row:
        print(f"  peak memory {row['peak_bytes'] / 1e9:.1f} GB")
    sys.stdout.flush()


def measured(
    geometry: Geometry, device: str, rounds: int, warm_up: int, budget: float
) -> Iterator[dict[str, Any]]:
    """The row of a geometry, after each round; the last one has the ops' shares too."""
    runner = Runner(geometry, device)
    kinds: dict[str, Callable[[], object]] = {
        "unpatched": runner.unpatched,
        "without blocks": runner.without_blocks,
    }
    if geometry.beside:
        kinds["one row"] = runner.one_row
    for name, share in SHARES.items():
        kinds[name] = lambda share=share: runner.cached(share)
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    computed: dict[str, float] = {}
    runner.cached(1.0)
    runner.unpatched()
    started = time.perf_counter()
    for round_ in range(rounds + warm_up):
        if round_ > warm_up and time.perf_counter() - started > budget:
            break
        for name, call in kinds.items():
            taken = once(call, device)
            if round_ >= warm_up:
                seconds[name].append(taken)
            if name in SHARES:
                computed[name] = runner.computed
        if round_ >= warm_up:
            row = shares(seconds, computed)
            print(f"  round {row['rounds']}: {time.perf_counter() - started:.1f} s", flush=True)
            yield row
    base = statistics.median(seconds["unpatched"])
    # in evaluations of their own, since the stopwatch costs time too
    row["ops_share"] = {
        name: {op: round(s / base, 7) for op, s in runner.ops.timed(kinds[name]).items()}
        for name in SHARES
    }
    runner.close()
    if device == "cuda":
        row["peak_bytes"] = torch.cuda.max_memory_allocated()
    yield row


def clear(device: str) -> None:
    """Give back what the last geometry held."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def main() -> None:
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    known = {**WAN, **SMALL, **host_geometries(), **SMOKE}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--geometry", nargs="+", choices=list(known))
    parser.add_argument("--rounds", type=int, default=4 if cuda else 30)
    parser.add_argument("--seconds", type=float, default=150.0, help="of rounds, per geometry")
    parser.add_argument("--smoke", action="store_true", help="one round of a tiny network")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--add", action="store_true", help="keep the file's other geometries")
    args = parser.parse_args()
    small = host_geometries() or SMALL
    names = args.geometry or list(SMOKE if args.smoke else WAN if cuda else small)
    rounds, warm_up = (1, 0) if args.smoke else (args.rounds, 1 if cuda else 3)
    if not cuda:
        # seconds of the processor are those of a call
        torch.set_num_threads(1)
    torch.manual_seed(0)
    facts = environment()
    print(*(f"{name}: {value}" for name, value in facts.items()), sep="\n", flush=True)
    rows: dict[str, dict[str, Any]] = {}
    if args.add and args.json:
        rows = {row["geometry"]: row for row in rows_of_others(args.json, facts, names)}
    skipped: dict[str, str] = {}

    def write() -> None:
        if args.json:
            result = {
                "bench": "engine",
                "environment": facts,
                "rows": list(rows.values()),
                "skipped": skipped,
            }
            save(args.json, result)

    with torch.inference_mode():
        for name in names:
            geometry = known[name]
            clear(device)
            needed = geometry.needed_bytes()
            if cuda and needed > torch.cuda.mem_get_info()[0]:
                skipped[name] = f"needs {needed / 1e9:.0f} GB of device memory"
                print(f"{name}: skipped, it {skipped[name]}", flush=True)
                write()
                continue
            wrong = gate(geometry, device)
            if wrong is not None:
                sys.exit(f"No numbers for {name}: the gate is red.\n{wrong}")
            clear(device)
            print(f"{name}: the gate is green", flush=True)
            for row in measured(geometry, device, rounds, warm_up, args.seconds):
                rows[name] = {"geometry": name, "model": geometry.facts(), **row}
                write()
            show(name, rows[name])


if __name__ == "__main__":
    main()
