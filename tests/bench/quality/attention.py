"""Which attention diffusion forcing wants: what each one's video is worth, and what reuse keeps.

    python tests/bench/quality/attention.py --out out/quality [--model NAME] [--seeds N] [--publish]

Bidirectional and block-causal attention draw two videos of a clip, so reuse is held against the
uncached video of the same attention. Work is that inside the blocks, attention counted, as a share
of the uncached bidirectional run's: under block-causal attention only the chunks that are being
denoised are computed, before anything is reused. Same machinery and gate as `run.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common  # noqa: F401
import torch
from quality.analysis import Record, Sweep, level
from quality.attention_report import AT_WORK, CLOSER, NOTE, markdown
from quality.bench import make, parsed, parser, result_name, sweeps, write
from quality.cases import BIDIRECTIONAL, FORCING, Case, case
from quality.metrics import psnr
from quality.policies import CACHED, MOTION, NEVER_REUSE, NONE, OURS, Job, sweep, whole, without
from quality.runs import fingerprint
from quality.stats import at_share, bootstrap, paired

SEEDS = {"tracks": 8, "confirmation": 8}
NAMES = {BIDIRECTIONAL: "bidirectional", FORCING: "block-causal"}
WHOLE = f"{whole(FORCING)} + forecast"
# of the uncached bidirectional run's work, where the sweeps of both overlap
TARGETS = (0.20, 0.25, 0.30)


def grid(clip: Case, quick: bool) -> dict[str, list[Job]]:
    """The runs of a clip by policy, each a sweep; the first one is without reuse."""
    found = {
        NONE: [without(clip.mode, OURS)],
        MOTION: sweep(clip, CACHED, OURS, quick),
        WHOLE: sweep(clip, CACHED, replace(OURS, policy=whole(clip.mode)), quick),
    }
    if clip.mode == BIDIRECTIONAL:
        # what the cache leaves out before it reuses anything
        found[AT_WORK] = [Job(CACHED, replace(OURS, warmup_steps=NEVER_REUSE))]
    return found


def work(record: Record) -> float:
    """Share of the uncached bidirectional run's work."""
    return float(record["flops_share"] * record["engine_share"])


def at(runs: Sequence[Sweep], share: float) -> list[float | None]:
    """PSNR of every clip at a share of the work."""
    return [at_share([(work(r), r["psnr"]) for r in clip], share) for clip in runs]


def apart(seed: int) -> float:
    """PSNR between the two uncached videos of a clip."""
    torch.set_num_threads(1)
    videos = [clip.decode(clip.uncached()) for clip in (case(mode, seed) for mode in NAMES)]
    return psnr(*videos)


def run(clips: Sequence[Record]) -> dict[str, Any]:
    """Figures of the same run of every clip."""
    psnrs = [r["psnr"] for r in clips]
    return {"work": bootstrap([work(r) for r in clips]), "psnr": bootstrap(psnrs)}


def differences(
    runs: dict[str, dict[str, Sequence[Sweep]]],
) -> Iterator[tuple[str, str, Sequence[Sweep], Sequence[Sweep]]]:
    """What is held against what."""
    causal, both = runs[FORCING], runs[BIDIRECTIONAL]
    yield f"{MOTION}, block-causal", f"{MOTION}, bidirectional", causal[MOTION], both[MOTION]
    yield f"{MOTION}, block-causal", f"{WHOLE}, block-causal", causal[MOTION], causal[WHOLE]
    yield f"{MOTION}, bidirectional", f"{WHOLE}, bidirectional", both[MOTION], both[WHOLE]


def figures(
    runs: dict[str, dict[str, Sequence[Sweep]]],
    uncached: dict[str, Sequence[Record]],
    between: Sequence[float],
) -> dict[str, Any]:
    """Everything that is published.

    Args:
        runs: by mode and policy, a sweep of each clip.
        uncached: by mode, the run without reuse of each clip.
        between: PSNR between the two uncached videos of each clip.
    """
    (at_work,) = zip(*runs[BIDIRECTIONAL][AT_WORK], strict=True)
    (preset,) = (
        same
        for same in zip(*runs[BIDIRECTIONAL][MOTION], strict=True)
        if same[0]["settings"]["compute_budget"] == OURS.compute_budget
    )
    rendered = {mode: [r["rendered_psnr"] for r in uncached[mode]] for mode in NAMES}
    return {
        "clips": len(between),
        "uncached": {
            NAMES[mode]: {
                "work": bootstrap([work(r) for r in uncached[mode]]),
                "to_clip_as_drawn": bootstrap(rendered[mode]),
            }
            for mode in NAMES
        },
        CLOSER: paired(rendered[FORCING], rendered[BIDIRECTIONAL]),
        "between_uncached": bootstrap(between),
        AT_WORK: run(at_work),
        "preset": {"budget": OURS.compute_budget, **run(preset)},
        "reuse": [
            {
                "policy": policy,
                "attention": NAMES[mode],
                "at": {level(share): bootstrap(at(runs[mode][policy], share)) for share in TARGETS},
            }
            for mode in NAMES
            for policy in (MOTION, WHOLE)
        ],
        "differences": [
            {"policy": a, "over": b, "at": {level(s): paired(at(x, s), at(y, s)) for s in TARGETS}}
            for a, b, x, y in differences(runs)
        ],
    }


def main() -> None:
    args = parsed(parser((__doc__ or "").splitlines()[0], SEEDS, choose_modes=False))
    grids, store, checked = make(args, NAMES, lambda clip: grid(clip, args.quick))
    with get_context("spawn").Pool(args.processes) as pool:
        between = pool.map(apart, range(args.seeds))
    runs = {mode: sweeps(grids, store, mode) for mode in NAMES}
    uncached: dict[str, list[Record]] = {mode: [] for mode in NAMES}
    for clip, jobs in grids:
        uncached[clip.mode].append(store.records[jobs[NONE][0].key(clip, fingerprint())])
    found = figures(runs, uncached, between)
    name = result_name("attention", args)
    write(name, "Attention", args, found, markdown(found), checked, NOTE, "figures")


if __name__ == "__main__":
    main()
