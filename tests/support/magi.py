"""Recorded runs of the published MAGI-1 code at a tiny size, and our own runs of the same.

Two blocks, 16 heads of 16 channels, chunks of 6 x 2 x 3 tokens. `magi1/weights*.safetensors` hold
random weights and the rows of text, the other files noise, given frames and the final latents.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core import RunFacts, Trace
from motioncache_pack.motioncache_core.engine.chunks.chunk_session import ChunkSession
from motioncache_pack.motioncache_core.models.magi1 import embedders
from motioncache_pack.motioncache_core.models.magi1 import network as networks
from motioncache_pack.motioncache_core.models.magi1 import operations as plain
from motioncache_pack.motioncache_core.models.magi1.chunk_call import ChunkCall
from motioncache_pack.motioncache_core.models.magi1.config import MagiConfig
from motioncache_pack.motioncache_core.models.magi1.options import CHUNK_FRAMES, MagiOptions
from motioncache_pack.motioncache_core.models.magi1.steps import ChunkSteps
from motioncache_pack.motioncache_core.report.trace_recorder import TraceRecorder
from motioncache_pack.motioncache_core.sampling.forcing import sample_forcing
from safetensors import safe_open
from safetensors.torch import load_file

FOLDER = Path(__file__).parent / "magi1"
# fp32 sums in another order, over a whole run; what a wrong detail costs is 1e-2 and more
TOLERANCE = 5e-6
# what the published code itself is off by in bf16
ROUNDING_BF16 = 1.7e-3
# the frequency that the processor of the recordings rounded to the next one above: with ours all
# the rest the same, its runs end 3e-6 apart in 8 steps and 3e-5 in 64
ROUNDED_UP = 13
_frequencies = embedders.time_frequencies


@dataclass(frozen=True)
class Recorded:
    """One run of the published code."""

    facts: dict[str, Any]
    noise: torch.Tensor
    latents: torch.Tensor
    prefix: torch.Tensor | None
    weights: dict[str, torch.Tensor]
    text: dict[str, torch.Tensor]
    computed_rows: torch.Tensor | None = None

    @property
    def given(self) -> int:
        return 0 if self.prefix is None else self.prefix.shape[2]

    @property
    def chunks(self) -> int:
        return self.noise.shape[2] // CHUNK_FRAMES

    @property
    def distilled(self) -> bool:
        return self.facts["distill"]

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if "bfloat16" in self.facts["dtype"] else torch.float32

    def options(self, **changes: Any) -> MagiOptions:
        facts = {"steps": self.facts["steps"], "window": self.facts["window"]}
        if "policy" in self.facts:
            facts |= {"near_clean": False, "clean_pass": False}
        return MagiOptions(**{**facts, **changes})

    def rows_of(self, chunk: int) -> torch.Tensor:
        """Text of a chunk `(1, n, width)`: how much is left, the quality, the caption."""
        left = min(self.chunks - chunk - 1, 7)
        parts = self.text["duration"][left][None], self.text["hq"], self.text["caption"]
        return torch.cat(parts)[None]

    def error(self, latents: torch.Tensor) -> float:
        """Relative L2 error of what was sampled; the published code moves frames that are given
        inside a chunk by its last step."""
        ours, theirs = (x[:, :, self.given :].double() for x in (latents, self.latents))
        return float((ours - theirs).norm() / theirs.norm())


def _frequencies_as_recorded(device: torch.device) -> torch.Tensor:
    found = _frequencies(device)
    above = torch.full_like(found[ROUNDED_UP], math.inf)
    found[ROUNDED_UP] = torch.nextafter(found[ROUNDED_UP], above)
    return found


@cache
def _weights(name: str) -> dict[str, torch.Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


@cache
def recorded(name: str) -> Recorded:
    """A run by name: base, base_24b, base_i2v, base_v2v, distill, distill_12, distill_bf16,
    distill_i2v, distill_v2v, distill_window1, policy_fast, policy_slow.

    Networks have the recordings' frequencies from here on.
    """
    embedders.time_frequencies = _frequencies_as_recorded
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["case"])
        names = file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
    shared = _weights(facts.get("weights", "weights"))
    own = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    text = {k.removeprefix("text."): v for k, v in shared.items() if k.startswith("text.")}
    weights = {k: v for k, v in shared.items() if not k.startswith("text.")} | own
    return Recorded(
        facts,
        tensors["noise"],
        tensors["latents"],
        tensors.get("prefix"),
        weights,
        text,
        tensors.get("computed_rows"),
    )


def network_of(case: Recorded, operations: Any = plain, **changes: Any) -> networks.MagiNetwork:
    config = MagiConfig.from_tensors(case.weights)
    made = networks.MagiNetwork(config, operations, case.dtype, **changes)
    made.load_state_dict(case.weights)
    return made.requires_grad_(False).eval()


@dataclass
class Run:
    """What came of a run of ours."""

    latents: torch.Tensor
    trace: Trace
    # x and the level-times-velocity of every iteration, the chunks at work and their steps
    calls: list[tuple[torch.Tensor, torch.Tensor, dict[int, int]]] = field(default_factory=list)
    evaluations: int = 0


def every_chunk_computed(call: ChunkCall, steps: ChunkSteps) -> None:
    """No policy."""


@torch.no_grad()
def run(
    case: Recorded,
    network: networks.MagiNetwork | None = None,
    make_policy: Any = every_chunk_computed,
    kv_cache: str = "auto",
    facts: RunFacts | None = None,
    before: Any = None,
    **changes: Any,
) -> Run:
    """Sample the recorded case with our pipeline."""
    net = network_of(case) if network is None else network
    options = case.options(**changes)
    steps = ChunkSteps(options)
    facts = RunFacts(sigmas=steps.sigmas) if facts is None else facts
    trace = Trace({})
    session = ChunkSession(kernels, facts, kv_cache, TraceRecorder(trace, facts), make_policy)
    attend = networks.plain_attention(net.config)
    result = Run(case.noise, trace)

    def count() -> None:
        result.evaluations += 1
        if before is not None:
            before()

    def evaluate(x, forcing):
        call = ChunkCall(net, attend, x, forcing, options, case.distilled, case.rows_of, count)
        moved = session.evaluate(call)
        active = {i: c.step for i, c in enumerate(forcing.iteration.steps) if c.role == "active"}
        result.calls.append((x.clone(), moved.clone(), active))
        return x + moved

    given = torch.zeros_like(case.noise)
    if case.prefix is not None:
        given[:, :, : case.given] = case.prefix
    try:
        result.latents = sample_forcing(
            evaluate, case.noise, given, steps.sigmas, steps.forcing, case.given
        )
    finally:
        session.close()
    return result
