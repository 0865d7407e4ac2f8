"""Why a run reused nothing, or not more: the sentences of a `RunSummary`."""

from __future__ import annotations

from typing import Any

from .run_summary import RunSummary
from .trace import Trace


def explain(trace: Trace) -> str | None:
    return RunSummary(trace).why


def reasons(trace: Trace) -> list[dict[str, Any]]:
    return RunSummary(trace).reasons
