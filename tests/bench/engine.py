"""What the engine itself costs: a reused and a half-active evaluation against an unpatched one.

    python tests/bench/engine.py [--json FILE]

Ratios of medians within one run, the kinds measured in turn. Refuses to print a number when the
partial path does not reproduce the dense one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import environment, load_pack

load_pack()

from motioncache_pack import kernels  # noqa: E402
from motioncache_pack.motioncache_core import (  # noqa: E402
    ModelCall,
    MotionCacheSettings,
    RunFacts,
    Session,
    Trace,
    scope,
)
from motioncache_pack.motioncache_core.demo.wan import DemoWan  # noqa: E402
from motioncache_pack.motioncache_core.policy import Decision  # noqa: E402

Decide = Callable[..., Decision]


def random_model(dim: int, layers: int) -> DemoWan:
    """A small Wan whose weights are random everywhere, the modulation included."""
    model = DemoWan(dim=dim, ffn_dim=4 * dim, num_layers=layers)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def forced(share: float) -> Decide:
    """A policy that always computes this share of the rows."""

    def decide(settings: Any, state: Any, distance: Any, ops: Any, **_: Any) -> Decision:
        state.evaluations += 1
        if state.evaluations == 1:
            return Decision("dense", "warm-up", state.tokens)
        active = round(share * state.tokens)
        if active == 0:
            return Decision("reuse", "motion", 0)
        due = torch.zeros(state.tokens, dtype=torch.uint8, device=state.device)
        due[torch.randperm(state.tokens)[:active]] = 1
        return Decision("partial", "motion", active, due)

    return decide


class Runner:
    """Calls one model through a session with a fixed share of active rows."""

    def __init__(self, model: DemoWan, x: torch.Tensor, context: torch.Tensor, share: float):
        self._model, self._x, self._context = model, x, context
        self._decide = forced(share)
        self._session = Session(MotionCacheSettings(), kernels, RunFacts(), Trace({}))
        self._sigma = 1.0

    def __call__(self) -> torch.Tensor:
        # a new noise level makes a new evaluation
        self._sigma -= 1e-4
        t = torch.full((self._x.shape[0],), 1000 * self._sigma)

        def run(options: dict[str, Any]) -> torch.Tensor:
            return self._model(self._x, t, self._context, transformer_options=options)

        original, scope.decide = scope.decide, self._decide
        try:
            branches = tuple(range(self._x.shape[0]))
            return self._session.evaluate(ModelCall(self._model, run, self._x, t, branches, {}))
        finally:
            scope.decide = original


def gate(model: DemoWan, x: torch.Tensor, context: torch.Tensor) -> None:
    """The partial path with all rows active is the dense path."""
    runner = Runner(model, x, context, 1.0)
    runner()
    partial = runner()
    t = torch.full((x.shape[0],), 1000 * runner._sigma)
    dense = model(x, t, context)
    error = float((partial - dense).norm() / dense.norm())
    if not error < 1e-5:
        sys.exit(f"correctness gate is red: all rows active differs from dense by {error:.2e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = random_model(args.dim, args.layers)
    x = torch.randn(2, 16, args.frames, 16, 16)
    context = torch.randn(2, 4, 4096)
    tokens = args.frames * 64
    with torch.no_grad():
        gate(model, x, context)
        t = torch.full((2,), 500.0)
        kinds: dict[str, Callable[[], torch.Tensor]] = {
            "unpatched": lambda: model(x, t, context),
            **{f"active {s:.0%}": Runner(model, x, context, s) for s in (0.0, 0.25, 0.5, 0.75)},
        }
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        for round_ in range(args.rounds + 3):
            for name, call in kinds.items():
                started = time.perf_counter()
                call()
                if round_ >= 3:
                    seconds[name].append(time.perf_counter() - started)
    base = statistics.median(seconds["unpatched"])
    print(
        f"DemoWan {args.dim}x{args.layers}, {tokens} tokens, batch 2, {args.rounds} rounds, "
        f"{torch.get_num_threads()} threads; share of an unpatched evaluation (median)"
    )
    rows = {}
    for name, values in seconds.items():
        rows[name] = statistics.median(values) / base
        print(f"  {name:12} {rows[name]:7.1%}")
    if args.json:
        result = {
            "bench": "engine",
            "model": {"dim": args.dim, "layers": args.layers, "tokens": tokens, "batch": 2},
            "rounds": args.rounds,
            "share_of_unpatched": {k: round(v, 4) for k, v in rows.items()},
            "environment": environment(),
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
