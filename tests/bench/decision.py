"""What deciding, gathering and scattering cost on a CPU, beside an evaluation of the network.

    python tests/bench/decision.py [--rounds N] [--json FILE]

One evaluation of a small Wan with all its tokens, then one walk through MotionCache's own work for
an evaluation with half of the rows active: motion map of the blocks' output, motion weights,
accumulating, filling up to the wanted number of rows, row list, gathers of tokens and rotary table,
the correction of the other rows by the computed ones, and the scatter with forecast. Medians over
rounds, as shares of the evaluation, in which each walk starts with the cache that the evaluation
left. Refuses to print a number when the walk is wrong.
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
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import environment, load_pack

load_pack()

from motioncache_pack import kernels  # noqa: E402
from motioncache_pack.motioncache_core.cache.correction import correction, features  # noqa: E402
from motioncache_pack.motioncache_core.common.token_layout import TokenLayout  # noqa: E402
from motioncache_pack.motioncache_core.demo.wan import DemoWan  # noqa: E402
from motioncache_pack.motioncache_core.policy.motion_weights import merge_maps, motion_weights  # noqa: E402

MODELS = ((128, 4), (384, 3))
BATCH, FRAMES, TOKENS = 2, 16, 256
LENGTH = FRAMES * TOKENS
LAYOUT = TokenLayout(FRAMES, int(TOKENS**0.5), int(TOKENS**0.5))
WARM_UP = 2
RULE = {"threshold": 0.1, "agreement": 0.5, "min_update_ratio": 0.1, "max_stale_steps": 8}


class Network:
    """A small Wan with random weights; its blocks can be run on chosen rows."""

    def __init__(self, dim: int, layers: int) -> None:
        self._model = DemoWan(dim=dim, ffn_dim=4 * dim, num_layers=layers).eval()
        for parameter in self._model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        side = 2 * int(TOKENS**0.5)
        self._given = (
            torch.randn(BATCH, 16, FRAMES, side, side),
            torch.full((BATCH,), 500.0),
            torch.randn(BATCH, 4, 4096),
        )
        self.x, self.table, self.y = Tensor(), Tensor(), Tensor()

    def dense(self) -> Tensor:
        return self._model(*self._given)

    def patched(
        self, first: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], last: Callable[..., Tensor]
    ) -> Tensor:
        """`first` changes the tokens and the rotary table before the blocks, `last` the tokens
        after them."""
        table = None

        def patch(index: int) -> Callable[..., dict[str, Any]]:
            def run(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
                nonlocal table
                x = args["img"]
                if index == 0:
                    x, table = first(x.contiguous(), args["pe"])
                out = extra["original_block"]({**args, "img": x, "pe": table})
                if index == len(self._model.blocks) - 1:
                    out = {**out, "img": last(out["img"])}
                return out

            return run

        blocks = {("double_block", i): patch(i) for i in range(len(self._model.blocks))}
        options = {"patches_replace": {"dit": blocks}}
        return self._model(*self._given, transformer_options=options)

    def record(self) -> None:
        """Keep what goes into the blocks and what comes out of them."""

        def first(x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
            self.x, self.table = x, table
            return x, table

        def last(y: Tensor) -> Tensor:
            self.y = y
            return y

        self.patched(first, last)


class Walk:
    """MotionCache's own work of one evaluation after the other; remembers how long it took."""

    def __init__(self, network: Network, active: int) -> None:
        self.active = active
        self._wanted = torch.tensor([active], dtype=torch.int32)
        self.output = network.y
        self.residual = network.y - network.x
        self.slope = torch.randn_like(self.residual)
        self.gain, self.interval = torch.rand(LENGTH), 1.0 + torch.rand(LENGTH)
        self._accumulator = torch.zeros(LENGTH)
        self._stale = torch.zeros(LENGTH, dtype=torch.int32)
        self._distance = torch.tensor(0.03)
        self.score, self.mask, self.inverse = Tensor(), Tensor(), Tensor()
        self.seconds: dict[str, float] = {}

    def decide(self) -> Tensor:
        """The list of active rows `(1, n)`."""
        maps = self._timed("motion_map", lambda: kernels.motion_map(self._frames()))
        weight = self._timed(
            "motion weights",
            lambda: motion_weights(merge_maps([maps[:1], maps[1:]]), 0.7).reshape(-1).contiguous(),
        )
        due, _ = self._timed(
            "accumulate_due",
            lambda: kernels.accumulate_due(
                *(self._accumulator, self._stale, self._distance, weight), frames=FRAMES, **RULE
            ),
        )
        self.mask = self._timed("select_top", lambda: self._fill(due))
        rows, inverse, _ = self._timed("compact_rows", lambda: kernels.compact_rows(self.mask))
        self.inverse = inverse[None]
        return rows[None, : self.active].contiguous()

    def gather(self, x: Tensor, rows: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of the tokens and of the rotary table."""
        picked, angles, _ = self._timed(
            "gather_rows", lambda: kernels.gather_rows(x, rows, table.flatten(2))
        )
        return picked, angles.unflatten(2, table.shape[2:])

    def correct(self, x: Tensor, rows: Tensor, new: Tensor) -> Tensor:
        """The rows that are not computed, their forecast corrected by the others."""
        return self._timed("correction", lambda: self._corrected(x, rows[0], new))

    def scatter(self, x: Tensor, new: Tensor) -> Tensor:
        return self._timed(
            "scatter_residual",
            lambda: kernels.scatter_residual(
                x, new, self.inverse, self.residual, self.slope, self.gain, self.interval
            ),
        )

    def _corrected(self, x: Tensor, rows: Tensor, new: Tensor) -> Tensor:
        fresh = torch.ones(LENGTH, dtype=torch.bool)
        told = correction(LAYOUT, (self.active,), self.inverse, self.interval, fresh, 1.0, kernels)
        if told is None:
            return new[:, :0]
        forecast = kernels.reuse_residual(x, self.residual, self.slope, self.gain)
        weights = told.weights(features(self.slope), rows)
        return kernels.correct_rows(forecast, new, rows, told.targets, told.sources, weights)

    def _frames(self) -> Tensor:
        return self.output.view(BATCH, FRAMES, TOKENS, -1)

    def _fill(self, due: Tensor) -> Tensor:
        self.score = self._accumulator.masked_fill(due.view(torch.bool), float("inf"))
        mask = kernels.select_top(self.score, self._wanted)
        self._accumulator.masked_fill_(mask.view(torch.bool), 0.0)
        return mask

    def _timed(self, part: str, call: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = call()
        self.seconds[part] = time.perf_counter() - started
        return result


def far(actual: Tensor, expected: Tensor) -> bool:
    # a NaN must not pass
    return not float((actual - expected).norm() / expected.norm()) < 1e-5


def gate(network: Network) -> str | None:
    """What is wrong: with all rows active the network's answer is its own, with half of them the
    computed rows are the most due ones, and the others are forecast."""
    everything = Walk(network, LENGTH)
    rows = everything.decide()
    answer = network.patched(
        lambda x, table: everything.gather(x, rows, table),
        lambda y: everything.scatter(network.x, y),
    )
    if far(answer, network.dense()):
        return "with all rows active the answer is not that of the network"
    walk = Walk(network, LENGTH // 2)
    rows = walk.decide()
    chosen = walk.mask.bool()
    if int(chosen.sum()) != walk.active or rows[0].tolist() != chosen.nonzero().view(-1).tolist():
        return "the row list is not the wanted number of chosen rows"
    if walk.score[chosen].min() < walk.score[~chosen].max():
        return "a row is left out that is more due than one that is computed"
    picked, angles = walk.gather(network.x, rows, network.table)
    if not torch.equal(picked, network.x[:, chosen]):
        return "the gathered tokens are not those of the list"
    if not torch.equal(angles, network.table[:, chosen]):
        return "the gathered rotary rows are not those of the list"
    new, r, s = torch.randn_like(picked), walk.residual.clone(), walk.slope.clone()
    expected_y = network.x + r + walk.gain[:, None] * s
    # with the same error everywhere it is that of every neighbourhood
    corrected = walk.correct(network.x, rows, expected_y[:, chosen] + 3.0)
    if far(corrected, expected_y[:, ~chosen] + 3.0):
        return "rows are not corrected by the error of those around them"
    expected_y[:, chosen] = new
    expected_r, expected_s = r.clone(), s.clone()
    expected_r[:, chosen] = new - picked
    expected_s[:, chosen] = ((expected_r - r) * walk.interval[:, None])[:, chosen]
    y = walk.scatter(network.x, new)
    for name, actual, expected in (
        ("output", y, expected_y),
        ("residual", walk.residual, expected_r),
        ("slope", walk.slope, expected_s),
    ):
        if far(actual, expected):
            return f"the merged {name} is not that of the formula"
    return None


def measured(network: Network, rounds: int) -> dict[str, Any]:
    walk = Walk(network, LENGTH // 2)
    new = torch.randn(BATCH, walk.active, network.x.shape[2])
    dense: list[float] = []
    parts: dict[str, list[float]] = {}
    for round_ in range(rounds + WARM_UP):
        started = time.perf_counter()
        network.dense()
        taken = time.perf_counter() - started
        rows = walk.decide()
        walk.gather(network.x, rows, network.table)
        walk.correct(network.x, rows, new)
        walk.scatter(network.x, new)
        if round_ >= WARM_UP:
            dense.append(taken)
            for part, seconds in walk.seconds.items():
                parts.setdefault(part, []).append(seconds)
    base = statistics.median(dense)
    parts["all"] = [sum(values) for values in zip(*parts.values(), strict=True)]
    return {
        "dense_ms": round(1e3 * base, 2),
        "median_ms": {k: round(1e3 * statistics.median(v), 3) for k, v in parts.items()},
        "share_of_dense": {k: round(statistics.median(v) / base, 6) for k, v in parts.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    print(
        f"{LENGTH} tokens, batch {BATCH}, half of the rows active, {args.rounds} rounds, "
        f"{torch.get_num_threads()} threads; share of a dense evaluation (median)\n"
        "These are CPU numbers of the torch path. They say nothing about a GPU."
    )
    rows = []
    with torch.no_grad(), kernels.use_backend("reference"):
        for dim, layers in MODELS:
            network = Network(dim, layers)
            network.record()
            wrong = gate(network)
            if wrong is not None:
                sys.exit(f"correctness gate is red: {wrong}")
            row = {"dim": dim, "layers": layers, **measured(network, args.rounds)}
            rows.append(row)
            print(f"DemoWan {dim}x{layers}, dense {row['dense_ms']:.0f} ms")
            for part, share in row["share_of_dense"].items():
                print(f"  {part:17}{row['median_ms'][part]:9.2f} ms{share:9.3%}")
    if args.json:
        result = {
            "bench": "decision",
            "sizes": {"tokens": LENGTH, "frames": FRAMES, "batch": BATCH, "active": LENGTH // 2},
            "rounds": args.rounds,
            "models": rows,
            "environment": {**environment(), "device": "cpu"},
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
