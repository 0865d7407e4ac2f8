"""A trace as numbers, text and reasons."""

from __future__ import annotations

from collections import Counter

from ..common.decision_kinds import DENSE, PARTIAL, REUSE
from .compute_share import compute_share, engine_share, seconds_saved
from .explain import explain, reasons
from .trace import Trace

COUNTED = (DENSE, PARTIAL, REUSE)
# while the run goes on
_FITTED_LIVE = 60


def line(trace: Trace) -> str:
    """One line for the log at the end of a run."""
    why = explain(trace)
    if why is not None:
        return f"nothing was reused: {why}."
    kinds = Counter(e.kind for e in trace.evaluations)
    share = compute_share(trace)
    parts = ", ".join(f"{kinds[k]} {k}" for k in COUNTED)
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


def run_lines(trace: Trace) -> list[str]:
    """The same for people, a sentence a line."""
    return [*_choice(trace), *_schedule(trace), *_windows(trace)]


def _choice(trace: Trace) -> list[str]:
    named = [] if trace.preset is None else [f"Preset: {trace.preset} ({_effective(trace)})"]
    return named + [f"Chosen: {sentence}" for sentence in trace.why]


def _effective(trace: Trace) -> str:
    often = "compute_budget" if trace.settings.get("compute_budget") else "reuse_threshold"
    names = ("warmup_steps", "uniform_updates", often, "motion_sensitivity", "forecast")
    return ", ".join(f"{n} {trace.settings[n]:g}" for n in names if n in trace.settings)


def _schedule(trace: Trace) -> list[str]:
    part = trace.part
    if part is None or (part.start == 0 and not part.goes_on):
        return []
    words = (
        f"Schedule: {part.start:.0%} to {part.end:.0%} of the model's noise schedule (sigma "
        f"{part.first_sigma:.3f} to {part.last_sigma:.3f})"
    )
    if part.goes_on:
        words += "; noise is left for another sampler, so no last evaluation is protected"
    return [words]


def _windows(trace: Trace) -> list[str]:
    windows = trace.windows
    if not windows:
        return []
    sizes = ", ".join(
        f"{n} of {size} latent frames"
        for size, n in sorted(Counter(len(w.frames) for w in windows).items(), reverse=True)
    )
    anchored = sum(w.anchor is not None for w in windows)
    anchors = f", {anchored} of them with an anchor frame before" if anchored else ""
    return [
        f"Context windows: {sizes}{anchors}, over {trace.clip_frames} latent frames; each has a "
        "state and evaluations of its own"
    ]
