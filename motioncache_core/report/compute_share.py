"""How much of the work was done: single numbers of a `RunSummary`."""

from __future__ import annotations

from .run_summary import RunSummary
from .trace import Trace


def compute_share(trace: Trace) -> float:
    """Token rows sent through the blocks, as a share of the same run's without reuse."""
    return RunSummary(trace).compute_share


def flops_share(trace: Trace) -> float:
    """Work inside the blocks, attention counted, as a share of the same run's without reuse."""
    return RunSummary(trace).flops_share


def engine_share(trace: Trace) -> float:
    """Work without reuse, as a share of the schedule's with every frame and full attention."""
    return RunSummary(trace).engine_share
