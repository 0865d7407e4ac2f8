"""How much of the work was done: single numbers of a `RunSummary`."""

from __future__ import annotations

from .run_summary import RunSummary
from .trace import Trace


def compute_share(trace: Trace) -> float:
    return RunSummary(trace).compute_share


def flops_share(trace: Trace) -> float:
    return RunSummary(trace).flops_share


def engine_share(trace: Trace) -> float:
    return RunSummary(trace).engine_share
