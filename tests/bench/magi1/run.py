"""What a MAGI-1 run costs: as published, without its copies and clean looks, cached as published,
and with our presets where they are as close.

    python tests/bench/magi1/run.py [--rounds N] [--json FILE]

7 chunks of 64 steps with the recorded tiny network, whose weights are random: its errors say which
method is closer, not how a video looks. Work is counted from the run's own records and told in
PFLOP of the 4.5B model at 720x720 pixels, 168 frames, whose blocks it would go through; text is
left out. Wall clock is the tiny network's, as a ratio. Refuses to print a number when recorded
decisions or latents are not met, or the count is not the published one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import environment, save
from motioncache_pack import kernels
from motioncache_pack.motioncache_core import MotionCacheSettings, RunFacts, Trace
from motioncache_pack.motioncache_core.engine.chunks.answer_policy import AnswerPolicy
from motioncache_pack.motioncache_core.engine.chunks.phase_policy import PhasePolicy
from motioncache_pack.motioncache_core.models.magi1.config import MagiConfig
from motioncache_pack.motioncache_core.policy.answer_plan import answer_plan
from motioncache_pack.motioncache_core.policy.chunk_phases import PhaseRules
from motioncache_pack.motioncache_core.report.run_summary import RunSummary
from motioncache_pack.motioncache_core.sampling.sampler_response import euler
from motioncache_pack.tests.support import magi
from quality.metrics import timed

CHUNKS, STEPS, ITERATIONS = 7, 64, 16 * (7 + 3)
LARGE = MagiConfig(
    blocks=34, width=3072, heads=24, groups=8, head_width=128, ffn_width=12288, text_width=4096
)
# tokens of a chunk: the tiny network's, and those of 720x720 pixels
TINY, FULL = 36, 6 * 45 * 45
# MotionCache's paper (arXiv 2605.01725) and FlowCache's (arXiv 2602.10825): PFLOP of such a run as
# published, and its speed-ups over it with the slow and the fast thresholds
PUBLISHED_PFLOP, PAPER_SPEEDUPS = 139.0, (1.64, 2.07)
COUNT_TOLERANCE = 0.02
THRESHOLDS = (0.0065, 0.01, 0.015)
BUDGETS = tuple(round(0.02 * n, 2) for n in range(5, 46))
PRESETS = ("quality", "balanced", "fast")
BARE = {"near_clean": False, "clean_pass": False}
AS_PUBLISHED = "as published"
NO_EXTRAS = "no copies, no clean looks"


def paper(threshold: float) -> Any:
    rules = PhaseRules(threshold, threshold)
    return lambda call, steps: PhasePolicy(rules, steps, TINY, ITERATIONS, published=True)


def ours(budget: float) -> Any:
    def make(call: Any, steps: Any) -> AnswerPolicy:
        settings = MotionCacheSettings.preset("balanced", compute_budget=budget)
        plan = answer_plan(settings, RunFacts(sigmas=steps.sigmas), euler(steps.sigmas))
        return AnswerPolicy(plan, kernels)

    return make


@dataclass
class Kind:
    """One way of running.

    Attributes:
        baseline: what its error is told against.
    """

    baseline: str
    changes: dict[str, Any]
    policy: Any = magi.every_chunk_computed
    seconds: list[float] = field(default_factory=list)
    latents: torch.Tensor | None = None
    trace: Trace | None = None

    def run(self, case: magi.Recorded, network: Any) -> None:
        run, taken = timed(
            lambda: magi.run(case, network, self.policy, steps=STEPS, **self.changes)
        )
        self.seconds.append(taken["cpu_seconds"])
        self.latents, self.trace = run.latents, run.trace


def clip() -> magi.Recorded:
    """Seven chunks of new noise for the recorded network."""
    case = magi.recorded("distill")
    noise = torch.randn((1, 16, 6 * CHUNKS, 4, 6), generator=torch.Generator().manual_seed(7))
    return replace(case, noise=noise, latents=noise)


def pflop(trace: Trace) -> float:
    """The run's work, as the 4.5B model's at full size."""
    row, pair = LARGE.work
    size = FULL / TINY
    rows = sum(c.rows * c.computed for c in trace.calls())
    pairs = sum(c.rows * c.pairs for c in trace.calls())
    return 2e-15 * LARGE.blocks * (rows * size * row + pairs * size**2 * pair)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def gate() -> dict[str, float]:
    """What was checked before anything is measured; ends the program where it does not hold."""
    checked = {}
    for name in ("policy_slow", "policy_fast"):
        case = magi.recorded(name)
        threshold = case.facts["policy"]["chunk_threshold"]
        rules = PhaseRules(threshold, threshold)
        run = magi.run(
            case, make_policy=lambda call, steps, r=rules: PhasePolicy(r, steps, TINY, 96, True)
        )
        found = [
            [c.active for c in e.chunks if c.phase not in ("unstarted", "done", "clean")]
            for e in run.trace.evaluations
        ]
        if [rows + [-1] * (4 - len(rows)) for rows in found] != case.computed_rows.tolist():
            sys.exit(f"correctness gate is red: {name} decides otherwise than was recorded")
        checked[f"{name}, error"] = case.error(run.latents)
    case = magi.recorded("distill")
    checked["distill, error"] = case.error(magi.run(case).latents)
    for name, error in checked.items():
        if not error <= magi.TOLERANCE:
            sys.exit(f"correctness gate is red: {name} {error:.1e}")
    counted = pflop(magi.run(clip(), steps=STEPS).trace)
    checked["counted pflop as published"] = round(counted, 2)
    if not abs(counted / PUBLISHED_PFLOP - 1) <= COUNT_TOLERANCE:
        sys.exit(f"the count is wrong: {counted:.1f} PFLOP, published are {PUBLISHED_PFLOP}")
    return checked


def kinds_of(case: magi.Recorded, network: Any) -> dict[str, Kind]:
    """All kinds, run once; of ours the least budget from which on all are as close as each of the
    published."""
    kinds = {AS_PUBLISHED: Kind(AS_PUBLISHED, {}), NO_EXTRAS: Kind(NO_EXTRAS, BARE)}
    kinds |= {f"paper at {t:g}": Kind(NO_EXTRAS, BARE, paper(t)) for t in THRESHOLDS}
    for name in PRESETS:
        budget = MotionCacheSettings.preset(name).compute_budget
        kinds[f"{name}, all else as published"] = Kind(AS_PUBLISHED, {}, ours(budget))
    for kind in kinds.values():
        kind.run(case, network)
    plain = kinds[NO_EXTRAS].latents
    tried = {}
    for budget in BUDGETS:
        tried[budget] = Kind(NO_EXTRAS, BARE, ours(budget))
        tried[budget].run(case, network)
    for t in THRESHOLDS:
        allowed = distance(kinds[f"paper at {t:g}"].latents, plain)
        far = [b for b in BUDGETS if distance(tried[b].latents, plain) > allowed]
        # below it one may come close by chance
        budget = min((b for b in BUDGETS if b > max(far, default=0.0)), default=None)
        if budget is not None:
            kinds[f"ours, as close as paper at {t:g}: budget {budget:g}"] = tried[budget]
    return kinds


def report(kinds: dict[str, Kind]) -> dict[str, Any]:
    """Print the table; the same as JSON-ready data."""
    base = kinds[AS_PUBLISHED]
    rows = {}
    print(f"{'':45}{'PFLOP':>8}{'rows':>8}{'error':>9}{'from published':>16}{'clock':>8}")
    for name, kind in kinds.items():
        work = pflop(kind.trace)
        ratios = (a / b for a, b in zip(base.seconds, kind.seconds, strict=False))
        rows[name] = row = {
            "pflop": round(work, 2),
            "less_work": round(pflop(base.trace) / work, 3),
            "compute_share": round(RunSummary(kind.trace).compute_share, 4),
            "error": round(distance(kind.latents, kinds[kind.baseline].latents), 5),
            "error_against": kind.baseline,
            "error_to_published": round(distance(kind.latents, base.latents), 5),
            "measured_speedup": round(statistics.median(ratios), 3),
        }
        print(
            f"{name:45}{row['pflop']:8.1f}{row['compute_share']:8.1%}{row['error']:9.4f}"
            f"{row['error_to_published']:16.4f}{row['measured_speedup']:7.2f}x"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}; give 1 or more")
    checked, case = gate(), clip()
    network = magi.network_of(case)
    kinds = kinds_of(case, network)
    for _ in range(args.rounds - 1):
        for kind in kinds.values():
            kind.run(case, network)
    rows = report(kinds)
    if args.json:
        result = {
            "bench": "magi1",
            "baseline": AS_PUBLISHED,
            "run": {"chunks": CHUNKS, "steps": STEPS, "window": 4},
            "paper_speedups": {"slow": PAPER_SPEEDUPS[0], "fast": PAPER_SPEEDUPS[1]},
            "rounds": args.rounds,
            "checked": checked,
            "kinds": rows,
            "environment": environment(),
        }
        save(args.json, result)


if __name__ == "__main__":
    main()
