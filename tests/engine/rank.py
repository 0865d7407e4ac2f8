"""One of the processes that compute a run together, as sequence parallelism does it: every rank
samples the clip, and each call of the network is a meeting of all of them.

python tests/engine/rank.py <rank> <ranks> <file to meet at>

Prints one line of JSON: what came of each way of sharing.
"""

from __future__ import annotations

import copy
import datetime
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from pack_loader import load_pack

load_pack()

from motioncache_pack import kernels as ops  # noqa: E402
from motioncache_pack.motioncache_core.common.reasons import code_of  # noqa: E402
from motioncache_pack.motioncache_core.demo.sampler import (  # noqa: E402
    SampleOptions,
    cached_sample,
)
from motioncache_pack.motioncache_core.demo.wan import DemoWan  # noqa: E402
from motioncache_pack.motioncache_core.sampling.run_facts import RunFacts  # noqa: E402
from motioncache_pack.motioncache_core.settings import PRESETS  # noqa: E402
from motioncache_pack.tests.core.small_wan import TEXT_DIM, TEXT_TOKENS, small_wan  # noqa: E402

STEPS = 20
# a rank that waits for one that does not come gives up
PATIENCE = datetime.timedelta(seconds=10)


def gathered(x: Tensor, dim: int) -> Tensor:
    """The parts of all ranks, in their order."""
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts, dim)


class Shared(DemoWan):
    """Counts its calls, and finds out whether all ranks make the same one."""

    def forward(self, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.levels = [*getattr(self, "levels", []), float(timestep[0])]
        if dist.is_initialized():
            here = torch.tensor([len(self.levels), self.levels[-1], x.shape[0]])
            alike = gathered(here[None], 0)
            if bool((alike != here).any()):
                raise RuntimeError(f"the ranks are at different calls: {alike.tolist()}")
        return super().forward(x, timestep, *args, **kwargs)


class ByTokens(Shared):
    """Every rank has a part of the tokens, and is told the keys and values of the others."""

    def run_blocks(
        self, x: Tensor, e: Tensor, table: Tensor, context: Tensor, image_tokens: int | None,
        options: dict[str, Any],
    ) -> Tensor:  # fmt: skip
        rank, ranks = dist.get_rank(), dist.get_world_size()
        assert x.shape[1] % ranks == 0

        def attend(function: Any, q: Tensor, k: Tensor, v: Tensor, **how: Any) -> Tensor:
            own = k.shape[1] == q.shape[1]
            out: Tensor = function(q, *((gathered(k, 1), gathered(v, 1)) if own else (k, v)), **how)
            return out

        mine = {**options, "optimized_attention_override": attend}
        x, table = (t.chunk(ranks, dim=1)[rank] for t in (x, table))
        return gathered(super().run_blocks(x, e, table, context, image_tokens, mine), 1)


class ByBranches(Shared):
    """Every rank computes one of the branches."""

    def forward(
        self, x: Tensor, timestep: Tensor, context: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        rank, ranks = dist.get_rank(), dist.get_world_size()
        assert x.shape[0] == ranks
        x, timestep, context = (t.chunk(ranks)[rank] for t in (x, timestep, context))
        return gathered(super().forward(x, timestep, context, *args, **kwargs), 0)


class Short:
    """The ops on a device that runs out of memory in the middle of the run."""

    def __init__(self) -> None:
        # the second pass at the second evaluation, then the first one at the next
        self.uses = 0

    def __getattr__(self, name: str) -> Any:
        def use(*args: Any) -> Any:
            self.uses += 1
            if self.uses in (4, 6):
                raise torch.OutOfMemoryError("simulated")
            return getattr(ops, name)(*args)

        return use


ALONE, MEMORY = "alone", "memory"
WAYS = {"tokens": ByTokens, "branches": ByBranches, MEMORY: ByTokens}


def sampled(way: str, short: bool = False) -> dict[str, Any]:
    """What the clip became, and what was decided on the way."""
    model = copy.deepcopy(small_wan())
    # the same weights, computed in another way
    model.__class__ = WAYS.get(way, Shared)
    draw = torch.Generator().manual_seed(5)
    said = torch.randn(2, 1, TEXT_TOKENS, TEXT_DIM, generator=draw)
    noise = torch.randn(1, 16, 3, 8, 8, generator=draw)
    latents, trace = cached_sample(
        model, said[0], said[1], noise, SampleOptions(STEPS), PRESETS["balanced"],
        Short() if short else ops, RunFacts(sigmas=SampleOptions(STEPS).sigmas(), shared=True),
    )  # fmt: skip
    return {
        "marks": "".join("D" if e.kind == "dense" else "." for e in trace.evaluations),
        "calls": len(model.levels),
        "remarks": [code_of(r) for r in trace.remarks],
        "latents": latents.flatten().tolist(),
    }


def main() -> None:
    rank, ranks, place = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{place}", rank=rank, world_size=ranks, timeout=PATIENCE
    )
    told = {}
    for way in WAYS:
        found = told[way] = sampled(way, short=way == MEMORY and rank == 1)
        # said to each other, so that no rank may have gone its own way to the end
        everyone: list[Any] = [None] * ranks
        dist.all_gather_object(everyone, (found["marks"], found["calls"]))
        found["everyone"] = everyone
    dist.destroy_process_group()
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    with torch.no_grad():
        main()
