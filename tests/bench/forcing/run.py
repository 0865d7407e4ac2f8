"""What a diffusion-forcing run costs: bidirectional, block-causal, with policies chunk and motion.

    python tests/bench/forcing/run.py [--rounds N] [--json FILE]

Asynchronous sampling as SkyReels-V2 does it, with a random model whose linear layers outweigh its
attention. For every kind the speed-up that the counted work promises beside the one measured:
the median over rounds, in each of which all kinds run, by the clock and by CPU time, which other
work on the machine disturbs less. Refuses to print a number when the block-causal engine differs
from an explicit mask, or the count from torch's own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import environment, save
from forcing.runs import (
    CAUSAL,
    CHUNK,
    MOTION,
    PLAIN,
    SETTINGS,
    Setting,
    Unpatched,
    counted_flops,
    random_model,
)
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from quality.metrics import timed

# what a kind's speed-up is held against besides the baseline
OVER = {CAUSAL: PLAIN, CHUNK: CAUSAL, MOTION: CAUSAL}
# relative difference to the explicit mask, and of the counted work to torch's count
MASK_TOLERANCE, COUNT_TOLERANCE = 1e-5, 0.02
# the layers of a block that run on video rows
ROW_LAYERS = (
    *(f"self_attn.{name}" for name in "qkvo"),
    "cross_attn.q",
    "cross_attn.o",
    "ffn.0",
    "ffn.2",
)


def torch_flops(setting: Setting, kind: str) -> tuple[int, int, int]:
    """The same work as the records and as torch count it, and torch's count of everything."""
    # torch counts no fused attention on a CPU, but the products it is made of
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, depth=None) as counter:
        calls = setting.run(kind).calls
    counts = counter.get_flop_counts()
    rows = sum(
        sum(operations.values())
        for name, operations in counts.items()
        if ".blocks." in name and name.endswith(ROW_LAYERS)
    )
    attention = counts["Global"][torch.ops.aten.bmm]
    return counted_flops(setting.model, calls), rows + attention, counter.get_total_flops()


def gate(model: DemoWan, height: int, width: int) -> dict[str, float]:
    """What was checked before anything is measured; ends the program where it does not hold."""
    # the last chunk is shorter than the others
    clip = Setting(model, 4, 8, 3, 2, height, width)
    engine = clip.run(CAUSAL).latents
    masked = clip.sample(Unpatched(causal=True), "block_causal")
    error = float((engine - masked).norm() / masked.norm())
    effect = float((clip.run(PLAIN).latents - masked).norm() / masked.norm())
    if not error < MASK_TOLERANCE:
        sys.exit(f"correctness gate is red: block-causal differs from a mask by {error:.2e}")
    if not effect > 10 * MASK_TOLERANCE:
        sys.exit(f"the correctness gate is blind: the mask changes the result by only {effect:.2e}")
    clip = Setting(model, 12, 6, 3, 3, height, width)
    checked: dict[str, float] = {"mask_error": error, "mask_effect": round(effect, 4)}
    for kind in (PLAIN, *SETTINGS):
        ours, theirs, everything = torch_flops(clip, kind)
        difference = ours / theirs - 1
        if not abs(difference) <= COUNT_TOLERANCE:
            sys.exit(
                f"the count is wrong: {kind} takes {theirs / 1e9:.2f} GFLOP by torch's count, "
                f"{ours / 1e9:.2f} by the records ({difference:+.1%})"
            )
        checked[f"count_difference, {kind}"] = round(difference, 6)
        checked[f"uncounted_share, {kind}"] = round(1 - theirs / everything, 4)
    return checked


@dataclass
class Measured:
    """Rounds of one kind. Calls are counted by what they executed."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    flops: int = 0
    rows: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    split_chunks: int = 0

    def add(self, setting: Setting, kind: str) -> None:
        """One more round, which must do the same work as those before."""
        run, taken = timed(lambda: setting.run(kind))
        self.seconds.append(taken["seconds"])
        self.cpu.append(taken["cpu_seconds"])
        flops = counted_flops(setting.model, run.calls)
        if self.flops not in (0, flops):
            sys.exit(f"rounds differ in their work: {self.flops} and {flops} FLOP")
        self.flops, self.split_chunks = flops, run.split_chunks
        self.rows = sum(c.rows * c.computed for c in run.calls)
        self.calls = dict(Counter(c.kind for c in run.calls))


def compare(base: Measured, other: Measured) -> dict[str, float]:
    """What `other` saves of `base`; medians over rounds, as within a round both share the machine
    with the same other work."""
    promised = base.flops / other.flops
    measured, by_cpu = (
        statistics.median(a / b for a, b in zip(*times, strict=True))
        for times in ((base.seconds, other.seconds), (base.cpu, other.cpu))
    )
    return {
        "rows_share": round(other.rows / base.rows, 4),
        "flops_share": round(1 / promised, 4),
        "wall_clock_share": round(1 / measured, 4),
        "promised_speedup": round(promised, 3),
        "measured_speedup": round(measured, 3),
        "reached": round(measured / promised, 4),
        "reached_by_cpu_time": round(by_cpu / promised, 4),
    }


def measure(setting: Setting, rounds: int) -> dict[str, Measured]:
    """All kinds in turn, there and back."""
    kinds = {kind: Measured() for kind in (PLAIN, *SETTINGS)}
    for round_ in range(rounds):
        for kind in list(kinds)[:: -1 if round_ % 2 else 1]:
            kinds[kind].add(setting, kind)
    if kinds[MOTION].split_chunks == 0:
        sys.exit("policy motion never computed a part of a chunk: nothing to measure")
    return kinds


def report(kinds: dict[str, Measured]) -> dict[str, Any]:
    """Print the table; the same as JSON-ready data."""
    heads = ("rows", "FLOPs", "clock", "promised", "measured", "reached", "by CPU")
    print(f"{'':22}{'seconds':>10}{'spread':>10}", *(f"{head:>9}" for head in heads))
    rows = {}
    for kind, measured in kinds.items():
        median = statistics.median(measured.seconds)
        spread = (max(measured.seconds) - min(measured.seconds)) / median
        rows[kind] = row = {
            "seconds": [round(s, 3) for s in measured.seconds],
            "cpu_seconds": [round(s, 3) for s in measured.cpu],
            "seconds_median": round(median, 3),
            "spread": round(spread, 4),
            "gflop": round(measured.flops / 1e9, 2),
            "calls": measured.calls,
            "split_chunks": measured.split_chunks,
        }
        for base in dict.fromkeys((PLAIN, OVER.get(kind, PLAIN))):
            row[f"over {base}"] = compared = compare(kinds[base], measured)
            name = kind if base == PLAIN else f"  over {base}"
            figures = (
                f"{value:8.2f}x" if "speedup" in title else f"{value:9.1%}"
                for title, value in compared.items()
            )
            print(f"{name:22}{median:10.2f}{spread:10.1%}", *figures)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--height", type=int, default=8, help="latent rows")
    parser.add_argument("--width", type=int, default=12, help="latent columns")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}; give 1 or more")
    torch.manual_seed(0)
    model = random_model(args.dim, args.layers)
    checked = gate(model, args.height, args.width)
    setting = Setting(model, args.steps, 25, 5, 5, args.height, args.width)
    kinds = measure(setting, args.rounds)
    print(
        f"DemoWan {args.dim}x{args.layers}, 25 frames of {args.height}x{args.width} in chunks of "
        f"5, delay 5, {args.steps} steps, 2 branches; {args.rounds} rounds, "
        f"{torch.get_num_threads()} threads"
    )
    rows = report(kinds)
    if args.json:
        result = {
            "bench": "diffusion_forcing",
            "baseline": f"{PLAIN}, without cache",
            "model": {"dim": args.dim, "layers": args.layers, "ffn_dim": 4 * args.dim},
            "run": {
                "frames": 25,
                "latent": [args.height, args.width],
                "chunk_frames": 5,
                "chunk_delay": 5,
                "steps": args.steps,
                "branches": 2,
            },
            "rounds": args.rounds,
            "checked": checked,
            "kinds": rows,
            "environment": environment(),
        }
        save(args.json, result)


if __name__ == "__main__":
    main()
