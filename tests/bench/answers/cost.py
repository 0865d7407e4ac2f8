"""What a foretold evaluation costs, as a share of a computed one, and what is kept for it.

    python tests/bench/answers/cost.py [--json FILE]

A Wan of width 512 with 768 tokens and random weights on the CPU, one pass; medians of one run, the
kinds measured in turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core import (
    PRESETS,
    AnswerCall,
    RunFacts,
    Trace,
    answer_session,
)
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.motioncache_core.sampling.sampler_response import euler

WIDTH, LAYERS, STEPS = 512, 8, 50
# 768 tokens
SIZE = (16, 12, 16, 16)


def measured(rounds: int) -> dict[str, Any]:
    """Seconds of every evaluation of some runs, by what became of it."""
    torch.manual_seed(0)
    network = DemoWan(dim=WIDTH, ffn_dim=4 * WIDTH, num_layers=LAYERS).eval()
    text = torch.randn(1, 4, 4096)
    sigmas = tuple(1 - k / STEPS for k in range(STEPS + 1))
    taken: dict[str, list[float]] = {"dense": [], "reuse": []}
    kept = 0
    for _ in range(rounds):
        trace = Trace({})
        facts = RunFacts(sigmas=sigmas)
        session = answer_session(PRESETS["balanced"], kernels, facts, trace, euler(sigmas))
        x = torch.randn(1, *SIZE)
        for sigma in sigmas[:-1]:
            started = time.perf_counter()
            session.begin(sigma)

            def run(x: torch.Tensor = x, sigma: float = sigma) -> torch.Tensor:
                return x - sigma * network(x, torch.full((1,), 1000 * sigma), text)

            clean = session.evaluate(AnswerCall(network, run, x, ("a",), SIZE, (1, 2, 2), "Wan"))
            taken[trace.evaluations[-1].kind].append(time.perf_counter() - started)
            x = x + (1 / STEPS) * (clean - x) / sigma
        session.close()
        kept = trace.answer_bytes
    medians = {kind: statistics.median(seconds) for kind, seconds in taken.items()}
    return {
        "environment": common.environment(),
        "command": "python tests/bench/answers/cost.py",
        "network": {"width": WIDTH, "layers": LAYERS, "tokens": 768},
        "evaluations": {kind: len(seconds) for kind, seconds in taken.items()},
        "share_of_computed": medians["reuse"] / medians["dense"],
        "latents_kept": kept / (4 * torch.Size(SIZE).numel()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        found = measured(args.rounds)
    print(f"a foretold evaluation takes {found['share_of_computed']:.3%} of a computed one")
    print(f"{found['latents_kept']:.3f} latents are kept")
    if args.json:
        common.save(args.json, found)


if __name__ == "__main__":
    main()
