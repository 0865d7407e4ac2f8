"""A trace as numbers, text and reasons. The one place that turns states into sentences."""

from __future__ import annotations

import json
from collections import Counter
from statistics import median
from typing import Any

from .policy import DENSE, PARTIAL, REUSE
from .trace import Trace

# raised when a field of the JSON report changes its meaning or goes
SCHEMA = 1

_COUNTED = (DENSE, PARTIAL, REUSE)


def block_macs(trace: Trace, rows: int) -> int:
    """Multiply-accumulates of one block for `rows` active rows of one batch row.

    Linear layers (self- and cross-attention projections of the video rows, feed-forward) grow
    with the rows, self-attention with rows times all keys. Text tokens are left out.
    """
    c = trace.width
    linear = 6 * c * c + 2 * c * trace.ffn_width
    return rows * (linear + 2 * trace.tokens * c)


def compute_share(trace: Trace) -> float:
    """Token rows sent through the blocks, as a share of the uncached run's."""
    full = sum(c.rows for c in trace.calls()) * trace.tokens
    return sum(c.rows * c.computed for c in trace.calls()) / full if full else 1.0


def flops_share(trace: Trace) -> float:
    """Work inside the blocks, attention counted, as a share of the uncached run's."""
    full = sum(c.rows for c in trace.calls()) * block_macs(trace, trace.tokens)
    done = sum(c.rows * block_macs(trace, c.computed) for c in trace.calls())
    return done / full if full else 1.0


def seconds_saved(trace: Trace) -> float | None:
    """Estimate: what the cheaper calls would have taken at the median of the full ones."""
    calls = trace.calls()
    full = [c.seconds / c.rows for c in calls if c.kind == DENSE and c.seconds > 0]
    if not full:
        return None
    cost = median(full)
    return sum(cost * c.rows - c.seconds for c in calls if c.kind in (PARTIAL, REUSE))


def explain(trace: Trace) -> str | None:
    """Why nothing was reused, and what to change; None if something was."""
    if trace.reason:
        return trace.reason
    if not trace.evaluations:
        return "the model was not called through its block hooks; nothing was measured"
    if any(c.kind in (PARTIAL, REUSE) for c in trace.calls()):
        return None
    phases = Counter(c.phase for e in trace.evaluations for c in e.chunks)
    if set(phases) <= {"warm-up", "last", "end"}:
        return (
            f"all {len(trace.evaluations)} evaluations fell into warm-up or the protected end; "
            "use more steps, or lower warmup_steps"
        )
    largest = max((c.distance or 0.0 for e in trace.evaluations for c in e.chunks), default=0.0)
    return (
        f"the change per step (up to {largest:.3g}) reached reuse_threshold "
        f"{trace.settings.get('reuse_threshold')} every time; raise it"
    )


def summary(trace: Trace) -> dict[str, Any]:
    """The report as JSON-ready data; `SCHEMA` says which version."""
    kinds = Counter(e.kind for e in trace.evaluations)
    calls = trace.calls()
    return {
        "schema": SCHEMA,
        "model": trace.model,
        "settings": trace.settings,
        "distance": trace.distance,
        "tokens": {"grid": trace.grid, "chunks": trace.chunks, "total": trace.tokens},
        "totals": {
            "evaluations": len(trace.evaluations),
            **{kind: kinds[kind] for kind in _COUNTED},
            "calls": len(calls),
            "declined_calls": len(trace.declined_calls),
            "block_calls": sum(c.blocks for c in calls),
            "compute_share": round(compute_share(trace), 6),
            "flops_share": round(flops_share(trace), 6),
            "seconds": round(trace.seconds, 4),
            "seconds_saved": _rounded(seconds_saved(trace)),
        },
        "memory": {
            "residual_bytes": trace.residual_bytes,
            "kv_bytes": trace.kv_bytes,
            "deciding_bytes": trace.deciding_bytes,
            "kv_reason": trace.kv_reason,
        },
        "reason": explain(trace),
        "evaluations": [
            {
                "index": e.index,
                "sigma": round(e.sigma, 6),
                "scope": e.scope,
                "kind": e.kind,
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


def line(trace: Trace) -> str:
    """One line for the log at the end of a run."""
    why = explain(trace)
    if why is not None:
        return f"nothing was reused: {why}."
    kinds = Counter(e.kind for e in trace.evaluations)
    share = compute_share(trace)
    parts = ", ".join(f"{kinds[k]} {k}" for k in _COUNTED)
    return (
        f"{len(trace.evaluations)} evaluations ({parts}); "
        f"{share:.0%} of the token work computed, {1 / share:.2f}x less than without."
    )


def text(trace: Trace) -> str:
    """The report for people."""
    rows = [f"MotionCache: {line(trace)}"]
    if trace.grid is not None:
        f, h, w = trace.grid
        rows += [
            f"Model: {trace.model}, {trace.blocks} blocks, {f}x{h}x{w} tokens in "
            f"{len(trace.chunks)} chunk(s)",
            f"Distance: {trace.distance}",
        ]
    if trace.evaluations:
        saved = seconds_saved(trace)
        rows += [
            f"Compute: {compute_share(trace):.1%} of the uncached run's tokens went through the "
            "blocks",
            f"Time: {trace.seconds:.2f} s in the sampler"
            + ("" if saved is None else f", about {saved:.2f} s saved (estimate)"),
            f"Memory: residuals {trace.residual_bytes / 2**20:.1f} MiB, keys and values "
            f"{trace.kv_bytes / 2**20:.1f} MiB ({trace.kv_reason})",
            "Evaluations (D dense, digits tenths computed, . reused):",
        ]
        rows += [f"  {name}: {marks}" for name, marks in _marks(trace).items()]
    notes = Counter(c.note for c in trace.calls() if c.note)
    rows += [f"Note: {note} ({n} calls)" for note, n in notes.items()]
    return "\n".join(rows)


def _marks(trace: Trace) -> dict[str, str]:
    marks: dict[str, str] = {}
    for e in trace.evaluations:
        for i, c in enumerate(e.chunks):
            name = e.scope if len(e.chunks) == 1 else f"{e.scope}, chunk {i}"
            tenth = str(min(9, int(10 * c.active / c.tokens)))
            mark = {DENSE: "D", REUSE: "."}.get(c.kind, tenth)
            marks[name] = marks.get(name, "") + mark
    return marks


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
