"""A trace as numbers, text and reasons."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from statistics import median
from typing import Any

from ..common.reasons import because, code_of
from ..policy.chunk_decision import DENSE, PARTIAL, REUSE
from ..sampling.schedule import CLEAN, DONE, UNSTARTED
from .report_run import run_lines, run_summary
from .trace import CallRecord, Trace

# raised when a field of the JSON report changes its meaning or goes
SCHEMA = 1

_COUNTED = (DENSE, PARTIAL, REUSE)
# calls that an estimate of seconds looks at, at most
_FITTED_CALLS = 300
# while the run goes on
_FITTED_LIVE = 60


def block_macs(trace: Trace, rows: int, pairs: int) -> int:
    """Multiply-accumulates of one block for `rows` active rows of one batch row.

    Linear layers (self- and cross-attention projections of the video rows, feed-forward) grow
    with the rows, self-attention with the query-key pairs. Text tokens are left out.
    """
    c = trace.width
    return rows * (6 * c * c + 2 * c * trace.ffn_width) + 2 * c * pairs


def compute_share(trace: Trace) -> float:
    """Token rows sent through the blocks, as a share of the same run's without reuse."""
    full = sum(c.rows * _needed(trace, c)[0] for c in trace.calls())
    return sum(c.rows * _done(trace, c)[0] for c in trace.calls()) / full if full else 1.0


def flops_share(trace: Trace) -> float:
    """Work inside the blocks, attention counted, as a share of the same run's without reuse."""
    full = sum(c.rows * block_macs(trace, *_needed(trace, c)) for c in trace.calls())
    done = sum(c.rows * block_macs(trace, *_done(trace, c)) for c in trace.calls())
    return done / full if full else 1.0


def engine_share(trace: Trace) -> float:
    """Work inside the blocks without reuse, as a share of the same schedule's when every frame of
    the model's input is computed and attends to all others. Below 1 under block-causal attention,
    which is not what a bidirectional model computes."""
    full = sum(c.rows * block_macs(trace, *_whole(trace, c)) for c in trace.calls())
    needed = sum(c.rows * block_macs(trace, *_needed(trace, c)) for c in trace.calls())
    return needed / full if full else 1.0


def _whole(trace: Trace, call: CallRecord) -> tuple[int, int]:
    tokens = call.window or trace.tokens
    return tokens, tokens * tokens


def _needed(trace: Trace, call: CallRecord) -> tuple[int, int]:
    return (call.needed, call.needed_pairs) if call.needed else _whole(trace, call)


def _done(trace: Trace, call: CallRecord) -> tuple[int, int]:
    if call.kind == "declined":
        # the clip may not have been known yet
        return _whole(trace, call)
    pairs = call.pairs if call.needed else call.computed * trace.tokens
    return call.computed, pairs


def seconds_saved(trace: Trace, fitted: int = _FITTED_CALLS) -> float | None:
    """Estimate: the work that was left out, times what a unit of work took.

    That rate is the median slope of seconds over work between any two calls (Theil-Sen), so that
    neither a call's fixed cost nor a slow first call counts as saved. None where seconds are not
    known or all calls did the same work. About `fitted` calls are looked at.
    """
    timed = [c for c in trace.calls() if c.seconds > 0]
    timed = timed[:: 1 + len(timed) // fitted]
    points = [(c.rows * block_macs(trace, *_done(trace, c)), c.seconds) for c in timed]
    slopes = [(t1 - t0) / (w1 - w0) for (w0, t0), (w1, t1) in combinations(points, 2) if w0 != w1]
    if not slopes:
        return None
    left_out = sum(
        c.rows * (block_macs(trace, *_needed(trace, c)) - block_macs(trace, *_done(trace, c)))
        for c in trace.calls()
    )
    return max(0.0, median(slopes)) * left_out


def explain(trace: Trace) -> str | None:
    """Why nothing was reused, and what to change; None if something was."""
    if trace.reason and compute_share(trace) == 1:
        return trace.reason
    if not trace.evaluations:
        return because("not_called")
    if any(c.kind in (PARTIAL, REUSE) for c in trace.calls()):
        return None
    phases = {c.phase for e in trace.evaluations for c in e.chunks}
    if phases <= {"warm-up", "last", "end", "restart", CLEAN, UNSTARTED, DONE}:
        return because("protected", evaluations=len(trace.evaluations))
    notes = [c.note for c in trace.calls() if c.note]
    if notes and any(e.kind != DENSE for e in trace.evaluations):
        return notes[0]
    budget = trace.settings.get("compute_budget")
    if budget:
        return because("budget_whole", budget=budget)
    largest = max((c.distance or 0.0 for e in trace.evaluations for c in e.chunks), default=0.0)
    threshold = trace.settings.get("reuse_threshold")
    return because("threshold_reached", largest=largest, threshold=threshold)


def reasons(trace: Trace) -> list[dict[str, Any]]:
    """Everything that kept the run from reusing (more), with the calls that it was told of.

    Each has a stable `code` from `common/reasons.py`, a `sentence`, and `calls`, which is 0 where
    it is not told of single calls.
    """
    said = Counter(c.note for c in trace.calls() if c.note)
    declined = len(trace.declined_calls)
    if trace.reason:
        said[trace.reason] += declined
    whole = [explain(trace), *trace.kv_reasons, *trace.remarks]
    sentences = dict.fromkeys([s for s in whole if s] + list(said))
    return [{"code": code_of(s), "sentence": s, "calls": said[s]} for s in sentences]


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
            **{kind: kinds[kind] for kind in _COUNTED},
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
                        "needed": _needed(trace, c)[0],
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


def progress(trace: Trace) -> str:
    """A few words about a run that goes on or has just ended."""
    why = explain(trace) if trace.finished else trace.reason
    if why:
        return f"nothing {'was' if trace.finished else 'is'} reused: {why}"
    saved = seconds_saved(trace, _FITTED_LIVE)
    so_far = "" if trace.finished else " so far"
    words = f"{len(trace.evaluations)} evaluations, {1 - compute_share(trace):.0%} reused{so_far}"
    return words + (f", about {saved:.1f} s saved" if saved else "")


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
    rows += run_lines(trace)
    if trace.evaluations:
        saved = seconds_saved(trace)
        rows += [
            f"Compute: {compute_share(trace):.1%} of the uncached run's tokens went through the "
            "blocks",
            *_engine(trace),
            f"Time: {trace.seconds:.2f} s in the sampler"
            + ("" if saved is None else f", about {saved:.2f} s saved (estimate)"),
            f"Memory: residuals "
            f"{_placed(trace.residual_bytes, trace.residual_host_bytes, trace.residual_reason)}, "
            f"keys and values {_placed(trace.kv_bytes, trace.kv_host_bytes, trace.kv_reason)}",
            "Evaluations (D dense, digits tenths computed, . reused, blank not at work):",
        ]
        rows += [f"  {name}: {marks}" for name, marks in _marks(trace).items()]
    why = explain(trace)
    for said in reasons(trace):
        calls = f" ({said['calls']} calls)" * bool(said["calls"])
        # the first line and the line on memory have said these
        if said["calls"] or said["sentence"] not in (why, *trace.kv_reasons):
            rows.append(f"Note: {said['sentence']}{calls}")
    return "\n".join(rows)


def _placed(device: int, host: int, reason: str) -> str:
    sizes = [f"{device / 2**20:.1f} MiB"] * (device > 0 or not host)
    sizes += [f"{host / 2**20:.1f} MiB on the cpu"] * (host > 0)
    return " and ".join(sizes) + f" ({reason})" * bool(reason)


def _engine(trace: Trace) -> list[str]:
    share = engine_share(trace)
    if share == 1:
        return []
    return [
        f"Block-causal attention: {share:.1%} of the work of computing every frame each time, "
        "before any reuse"
    ]


def _marks(trace: Trace) -> dict[str, str]:
    marks: dict[str, str] = {}
    counts: Counter[str] = Counter()
    alone = all(len(e.chunks) == 1 and e.first_chunk == 0 for e in trace.evaluations)
    for e in trace.evaluations:
        for i, c in enumerate(e.chunks, start=e.first_chunk):
            name = e.scope if alone else f"{e.scope}, chunk {i}"
            tenth = str(min(9, int(10 * c.active / c.tokens)))
            mark = " " if c.idle else {DENSE: "D", REUSE: "."}.get(c.kind, tenth)
            # a chunk that was not in the input yet
            marks[name] = marks.get(name, "").ljust(counts[e.scope]) + mark
        counts[e.scope] += 1
    return {name: row.rstrip() for name, row in marks.items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
