"""What is the same in every decision of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..common.protocols import TokenOps
from ..report.trace_recorder import TraceRecorder
from ..sampling.run_facts import RunFacts
from ..settings import MotionCacheSettings
from .map_exchange import MapExchange


@dataclass(frozen=True, slots=True)
class RunContext:
    """One run, for all that decides, keeps and records in it.

    Attributes:
        ops: the kernels, or anything that implements `TokenOps`.
        reuse: False computes everything, as block-causal attention asks for.
        exchange: takes and gives motion maps, where the branches are spread over devices.
    """

    settings: MotionCacheSettings
    ops: TokenOps
    run: RunFacts
    recorder: TraceRecorder
    reuse: bool = True
    exchange: MapExchange | None = field(default=None, compare=False)
