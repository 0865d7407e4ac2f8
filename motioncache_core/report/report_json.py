"""A trace as JSON."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from .compute_share import compute_share, engine_share, flops_share, needed_work, seconds_saved
from .explain import explain, reasons
from .report_text import COUNTED
from .trace import Trace

# raised when a field of the JSON report changes its meaning or goes
SCHEMA = 1


def summary(trace: Trace) -> dict[str, Any]:
    """The report as JSON-ready data; `SCHEMA` says which version."""
    kinds = Counter(e.kind for e in trace.evaluations)
    calls = trace.calls()
    return {
        "schema": SCHEMA,
        "model": trace.model,
        "settings": trace.settings,
        "distance": trace.distance,
        **run_summary(trace),
        "tokens": {"grid": trace.grid, "chunks": trace.chunks, "total": trace.tokens},
        "totals": {
            "evaluations": len(trace.evaluations),
            **{kind: kinds[kind] for kind in COUNTED},
            "calls": len(calls),
            "declined_calls": len(trace.declined_calls),
            "block_calls": sum(c.blocks for c in calls),
            "compute_share": round(compute_share(trace), 6),
            "flops_share": round(flops_share(trace), 6),
            "engine_share": round(engine_share(trace), 6),
            "seconds": round(trace.seconds, 4),
            "seconds_saved": _rounded(seconds_saved(trace)),
        },
        "memory": {
            "residual_bytes": trace.residual_bytes,
            "residual_host_bytes": trace.residual_host_bytes,
            "kv_bytes": trace.kv_bytes,
            "kv_host_bytes": trace.kv_host_bytes,
            "deciding_bytes": trace.deciding_bytes,
            "residual_reason": trace.residual_reason,
            "kv_reason": trace.kv_reason,
        },
        "reason": explain(trace),
        "reasons": reasons(trace),
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
                        "needed": needed_work(trace, c)[0],
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


def as_json(trace: Trace) -> str:
    """`summary` as indented JSON."""
    return json.dumps(summary(trace), indent=1)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def run_summary(trace: Trace) -> dict[str, Any]:
    """The same as JSON-ready data."""
    part = trace.part
    schedule = None
    if part is not None:
        schedule = {
            "start": round(part.start, 4),
            "end": round(part.end, 4),
            "first_sigma": round(part.first_sigma, 6),
            "last_sigma": round(part.last_sigma, 6),
        }
    return {
        "preset": trace.preset,
        "why": list(trace.why),
        "schedule": schedule,
        "windows": [{"frames": list(w.frames), "anchor": w.anchor} for w in trace.windows],
        "remarks": list(trace.remarks),
    }
