"""A trace as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from ..sampling.run_facts import SchedulePart
from .report_text import COUNTED
from .run_summary import RunSummary
from .shown_run import ShownRun
from .trace import Trace

# raised when a field of the JSON report changes its meaning or goes
SCHEMA = 1


def summary(trace: Trace, shown: ShownRun | None = None) -> dict[str, Any]:
    """The report as JSON-ready data; `SCHEMA` says which version.

    Args:
        shown: which run of its model this is, where that is known.
    """
    found: dict[str, Any] = _without_nan(_summary(trace))
    found["run"] = None
    if shown is not None:
        found["run"] = {"number": shown.number, "of": shown.of, "from_samples": shown.known}
    return found


def _summary(trace: Trace) -> dict[str, Any]:
    run = RunSummary(trace)
    return {
        "schema": SCHEMA,
        "model": trace.model,
        "settings": trace.settings,
        "distance": trace.distance,
        "preset": trace.preset,
        "why": list(trace.why),
        "schedule": _schedule(trace.part),
        "windows": [{"frames": list(w.frames), "anchor": w.anchor} for w in trace.windows],
        "remarks": list(trace.remarks),
        "tokens": {"grid": trace.grid, "chunks": trace.chunks, "total": trace.tokens},
        "totals": {
            "steps": trace.steps,
            "evaluations": len(trace.evaluations),
            **{kind: run.kinds[kind] for kind in COUNTED},
            "calls": run.calls,
            "declined_calls": len(trace.declined_calls),
            "block_calls": run.block_calls,
            "compute_share": round(run.compute_share, 6),
            "flops_share": round(run.flops_share, 6),
            "engine_share": round(run.engine_share, 6),
            "seconds": round(trace.seconds, 4),
            "seconds_saved": _rounded(run.seconds_saved()),
            "speed_up": _rounded(run.speed_up()),
        },
        "memory": {
            "residual_bytes": trace.residual_bytes,
            "residual_host_bytes": trace.residual_host_bytes,
            "kv_bytes": trace.kv_bytes,
            "kv_host_bytes": trace.kv_host_bytes,
            "deciding_bytes": trace.deciding_bytes,
            "answer_bytes": trace.answer_bytes,
            "kv_planned": None if trace.kv_planned is None else asdict(trace.kv_planned),
            "residual_reason": trace.residual_reason,
            "kv_reason": trace.kv_reason,
        },
        "reason": run.why,
        "reasons": run.reasons,
        "evaluations": [
            {
                "index": e.index,
                "sigma": round(e.sigma, 6),
                "scope": e.scope,
                "kind": e.kind,
                "window": e.window,
                "first_chunk": e.first_chunk,
                "active_share": round(e.active_share, 6),
                "chunks": [
                    {
                        "kind": c.kind,
                        "phase": c.phase,
                        "active": c.active,
                        "tokens": c.tokens,
                        "distance": _rounded(c.distance),
                    }
                    for c in e.chunks
                ],
                "calls": [
                    {
                        "kind": c.kind,
                        "branches": c.branches,
                        "rows": c.rows,
                        "computed": c.computed,
                        "needed": c.needed or c.window or trace.tokens,
                        "blocks": c.blocks,
                        "seconds": round(c.seconds, 5),
                        "note": c.note,
                    }
                    for c in e.calls
                ],
            }
            for e in trace.evaluations
        ],
    }


def as_json(trace: Trace, shown: ShownRun | None = None) -> str:
    """`summary` as indented JSON."""
    return json.dumps(summary(trace, shown), indent=1, allow_nan=False)


def _without_nan(data: Any) -> Any:
    """The same data, null for every number that JSON has no word for."""
    if isinstance(data, dict):
        return {key: _without_nan(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_without_nan(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _schedule(part: SchedulePart | None) -> dict[str, float] | None:
    if part is None:
        return None
    return {
        "start": round(part.start, 4),
        "end": round(part.end, 4),
        "first_sigma": round(part.first_sigma, 6),
        "last_sigma": round(part.last_sigma, 6),
    }
