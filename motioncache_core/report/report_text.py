"""A trace as text."""

from __future__ import annotations

import textwrap
from collections import Counter

from ..common.decision_kinds import DENSE, PARTIAL, REUSE
from ..settings import POLICIES, MotionCacheSettings, Policy
from .run_summary import RunSummary
from .trace import Trace

COUNTED = (DENSE, PARTIAL, REUSE)
# a sentence on a node breaks where words end: the page would break it within a number
_NODE_WIDTH = 32


def line(trace: Trace) -> str:
    """One line for the log at the end of a run."""
    return _line(RunSummary(trace))


def _line(run: RunSummary) -> str:
    if run.why is not None:
        return f"nothing was reused: {run.why}."
    share = run.compute_share
    parts = ", ".join(f"{run.kinds[k]} {k}" for k in COUNTED)
    return (
        f"{len(run.trace.evaluations)} {run.trace.unit}s ({parts}); "
        f"{share:.0%} of the token work computed, {1 / share:.2f}x less than without."
    )


def progress(trace: Trace) -> str:
    """A few short lines about a run that goes on or has just ended."""
    run = RunSummary(trace)
    why = run.why if trace.finished else trace.reason
    if why:
        return on_node(f"nothing {'was' if trace.finished else 'is'} reused: {why}")
    reused = f"{_percent(1 - run.compute_share)} reused"
    if not trace.finished:
        count, of = len(trace.evaluations), trace.expected or trace.steps
        known = f" of {of}" * (count <= of)
        return f"{trace.unit} {count}{known} · {reused}" + _keys(trace)
    faster = run.speed_up()
    return reused + (f" · about {faster:.1f}x faster" if faster else "") + _keys(trace)


def gain(settings: MotionCacheSettings) -> str:
    """What is to be expected of a run, before it starts."""
    budget = settings.compute_budget
    if settings.reuse_threshold == 0:
        return "nothing is reused"
    if budget == 0:
        return on_node("reuses what changes little: how much depends on the video")
    what = "steps" if settings.traits.answers else "tokens"
    faster = f"up to {1 / budget:.1f}x faster in the sampler"
    return f"computes {_percent(budget)} of the {what}\n{faster}"


def on_node(sentence: str) -> str:
    """A sentence in lines that fit on a node."""
    return textwrap.fill(sentence, _NODE_WIDTH, break_long_words=False, break_on_hyphens=False)


def _percent(share: float) -> str:
    # a space that no line breaks at
    return f"{100 * share:.0f}\u00a0%"


def _keys(trace: Trace) -> str:
    """The line on the memory of keys and values, which is known from the first evaluation on."""
    sizes = {"on the model's device": trace.kv_bytes, "in the host's memory": trace.kv_host_bytes}
    # less than this does not matter to anyone
    held = [f"{n / 1e9:.1f}\u00a0GB, {where}" for where, n in sizes.items() if n >= 5e7]
    return f"\nkeys and values {' and '.join(held)}" if held else ""


def text(trace: Trace, which: str | None = None) -> str:
    """The report for people.

    Args:
        which: run of its model this is, in words; None where there was only one.
    """
    run = RunSummary(trace)
    rows = [f"MotionCache: {_line(run)}", *([] if which is None else [f"Shown: {which}"])]
    if trace.grid is not None:
        f, h, w = trace.grid
        blocks = f"{trace.blocks} blocks, " * bool(trace.blocks)
        rows.append(
            f"Model: {trace.model}, {blocks}{f}x{h}x{w} tokens in {len(trace.chunks)} chunk(s)"
        )
        rows += [f"Distance: {trace.distance}"] * bool(trace.distance)
    rows += [*_choice(trace), *_schedule(trace), *_windows(trace)]
    if trace.seconds:
        rows.append(f"Time: {trace.seconds:.2f} s in the sampler{_estimate(run)}")
    if trace.evaluations:
        rows.append(
            f"Compute: {run.compute_share:.1%} of the uncached run's tokens went through the blocks"
        )
        if run.engine_share != 1:
            rows.append(
                f"Block-causal attention: {run.engine_share:.1%} of the work of computing every "
                "frame each time, before any reuse"
            )
        rows += [
            f"Memory: {_memory(trace)}",
            f"{trace.unit.capitalize()}s (D dense, digits tenths computed, . reused, blank not at "
            "work):",
        ]
        rows += [f"  {name}: {marks}" for name, marks in _marks(trace).items()]
    for reason in run.reasons:
        calls = f" ({reason['calls']} calls)" * bool(reason["calls"])
        # the first line and the line on memory have said these
        if reason["calls"] or reason["sentence"] not in (run.why, *trace.kv_reasons):
            rows.append(f"Note: {reason['sentence']}{calls}")
    return "\n".join(rows)


def _estimate(run: RunSummary) -> str:
    without, faster = run.seconds_without(), run.speed_up()
    if without is None or faster is None:
        return ""
    return (
        f", about {faster:.2f}x faster than without (estimate: {without:.2f} s, from the "
        f"{run.trace.unit}s of this run that were computed in full)"
    )


def _memory(trace: Trace) -> str:
    answers = f"answers {_size(trace.answer_bytes, 0, '')}" * bool(trace.answer_bytes)
    if answers and not trace.residual_reason and not trace.kv_reason:
        return answers
    residuals = _size(trace.residual_bytes, trace.residual_host_bytes, trace.residual_reason)
    keys = _size(trace.kv_bytes, trace.kv_host_bytes, trace.kv_reason)
    blocks = f"residuals {residuals}, keys and values {keys}"
    return f"{answers}, {blocks}" if answers else blocks


def _size(device: int, host: int, reason: str) -> str:
    sizes = [f"{device / 2**20:.1f} MiB"] * (device > 0 or not host)
    sizes += [f"{host / 2**20:.1f} MiB on the cpu"] * (host > 0)
    return " and ".join(sizes) + f" ({reason})" * bool(reason)


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


def _choice(trace: Trace) -> list[str]:
    named = [] if trace.preset is None else [f"Preset: {trace.preset} ({_effective(trace)})"]
    return named + [f"Chosen: {sentence}" for sentence in trace.why]


def _effective(trace: Trace) -> str:
    often = "compute_budget" if trace.settings.get("compute_budget") else "reuse_threshold"
    names: tuple[str, ...] = ("warmup_steps", often, "forecast")
    if not POLICIES.get(trace.settings.get("policy", ""), Policy()).answers:
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
