"""A trace as text."""

from __future__ import annotations

from collections import Counter

from ..common.decision_kinds import DENSE, PARTIAL, REUSE
from ..common.phrases import phrase, together
from ..settings import POLICIES, Policy
from .node_text import prompts
from .run_summary import RunSummary
from .trace import Trace

COUNTED = (DENSE, PARTIAL, REUSE)


def line(trace: Trace) -> str:
    """One line for the log at the end of a run."""
    return _line(RunSummary(trace))


def _line(run: RunSummary) -> str:
    if run.why is not None:
        return phrase("nothing was reused: {why}.", why=run.why)
    n, share = len(run.trace.evaluations), run.compute_share
    return phrase(
        "{what} ({dense} dense, {partial} partial, {reuse} reuse); {share:.0%} of the token work "
        "computed, {less:.2f}x less than without.",
        what=phrase("{n} steps", n=n) if _steps(run) else phrase("{n} evaluations", n=n),
        share=share,
        less=1 / share,
        **{kind: run.kinds[kind] for kind in COUNTED},
    )


def _steps(run: RunSummary) -> bool:
    return run.trace.unit == "step"


def text(trace: Trace, which: str | None = None, measured: bool = False) -> str:
    """The report for people.

    Args:
        which: run of its model this is, in words; None where there was only one.
        measured: the workflow measures the gain, so that no estimate is told beside that.
    """
    run = RunSummary(trace)
    rows: list[str] = [phrase("MotionCache: {line}", line=_line(run))]
    if which is not None:
        rows.append(phrase("Shown: {which}", which=which))
    rows += [*_model(trace), *_choice(trace), *_schedule(trace), *_windows(trace)]
    if trace.seconds:
        rows.append(_time(run, measured))
    if trace.evaluations:
        rows += [*_computed(run), *_kept(trace), *_course(run)]
    for reason in run.reasons:
        said, calls = reason["sentence"], reason["calls"]
        # the first line and the line on memory have said these
        if calls:
            rows.append(phrase("Note: {said} ({calls} calls)", said=said, calls=calls))
        elif said not in (run.why, *trace.kv_reasons):
            rows.append(phrase("Note: {said}", said=said))
    return together("\n", rows)


def _model(trace: Trace) -> list[str]:
    if trace.grid is None:
        return []
    f, h, w = trace.grid
    n = len(trace.chunks)
    parts: list[str] = [phrase("Model: {name}", name=trace.model)]
    if trace.blocks:
        parts.append(phrase("{n} blocks", n=trace.blocks))
    parts.append(phrase("{f}x{h}x{w} tokens in {n} chunk(s)", f=f, h=h, w=w, n=n))
    rows: list[str] = [together(", ", parts)]
    if trace.distance:
        rows.append(phrase("Distance: {name}", name=trace.distance))
    return rows


def _time(run: RunSummary, measured: bool) -> str:
    took = phrase("Time: {took:.2f} s in the sampler", took=run.trace.seconds)
    without, faster = run.seconds_without(), run.speed_up()
    if without is None or faster is None:
        return took
    if measured:
        return phrase("{took}; MotionCache Compare measures what it gained", took=took)
    facts = {"took": took, "faster": faster, "without": without}
    if _steps(run):
        return phrase(
            "{took}, about {faster:.2f}x faster than without (estimate: {without:.2f} s, from the "
            "steps of this run that were computed in full)",
            **facts,
        )
    return phrase(
        "{took}, about {faster:.2f}x faster than without (estimate: {without:.2f} s, from the "
        "evaluations of this run that were computed in full)",
        **facts,
    )


def _computed(run: RunSummary) -> list[str]:
    rows: list[str] = [
        phrase(
            "Compute: {share:.1%} of the uncached run's tokens went through the blocks",
            share=run.compute_share,
        )
    ]
    if run.engine_share != 1:
        rows.append(
            phrase(
                "Block-causal attention: {share:.1%} of the work of computing every frame each "
                "time, before any reuse",
                share=run.engine_share,
            )
        )
    return rows


def _kept(trace: Trace) -> list[str]:
    rows: list[str] = []
    planned = trace.kv_planned
    if planned is not None:
        rows.append(
            phrase(
                "Foreseen: keys and values {size} {prompts}",
                size=_size(planned.nbytes, planned.host_bytes, ""),
                prompts=prompts(planned),
            )
        )
    parts: list[str] = []
    if trace.answer_bytes:
        parts.append(phrase("answers {size}", size=_size(trace.answer_bytes, 0, "")))
    if not parts or trace.residual_reason or trace.kv_reason:
        residuals = _size(trace.residual_bytes, trace.residual_host_bytes, trace.residual_reason)
        keys = _size(trace.kv_bytes, trace.kv_host_bytes, trace.kv_reason)
        parts.append(phrase("residuals {size}", size=residuals))
        parts.append(phrase("keys and values {size}", size=keys))
    return [*rows, phrase("Memory: {parts}", parts=together(", ", parts))]


def _size(device: int, host: int, reason: str) -> str:
    sizes: list[str] = [f"{device / 2**20:.1f} MiB"] * (device > 0 or not host)
    if host > 0:
        sizes.append(phrase("{size} on the cpu", size=f"{host / 2**20:.1f} MiB"))
    found = together(" and ", sizes)
    return phrase("{size} ({reason})", size=found, reason=reason) if reason else found


def _course(run: RunSummary) -> list[str]:
    marks = phrase("(D dense, digits tenths computed, . reused, blank not at work):")
    head = phrase("Steps {marks}", marks=marks)
    if not _steps(run):
        head = phrase("Evaluations {marks}", marks=marks)
    marked = _marks(run.trace).items()
    return [head, *(phrase("  {name}: {row}", name=name, row=row) for name, row in marked)]


def _marks(trace: Trace) -> dict[str, str]:
    marks: dict[str, str] = {}
    counts: Counter[str] = Counter()
    alone = all(len(e.chunks) == 1 and e.first_chunk == 0 for e in trace.evaluations)
    for e in trace.evaluations:
        for i, c in enumerate(e.chunks, start=e.first_chunk):
            name = e.scope if alone else phrase("{scope}, chunk {i}", scope=e.scope, i=i)
            tenth = str(min(9, int(10 * c.active / c.tokens)))
            mark = " " if c.idle else {DENSE: "D", REUSE: "."}.get(c.kind, tenth)
            # a chunk that was not in the input yet
            marks[name] = marks.get(name, "").ljust(counts[e.scope]) + mark
        counts[e.scope] += 1
    return {name: row.rstrip() for name, row in marks.items()}


def _choice(trace: Trace) -> list[str]:
    named: list[str] = []
    if trace.preset is not None:
        values = _effective(trace)
        named.append(phrase("Preset: {name} ({values})", name=trace.preset, values=values))
    return named + [phrase("Chosen: {said}", said=sentence) for sentence in trace.why]


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
    said = phrase(
        "Schedule: {start:.0%} to {end:.0%} of the model's noise schedule (sigma {first:.3f} to "
        "{last:.3f})",
        start=part.start,
        end=part.end,
        first=part.first_sigma,
        last=part.last_sigma,
    )
    if not part.goes_on:
        return [said]
    more = phrase("noise is left for another sampler, so no last evaluation is protected")
    return [together("; ", [said, more])]


def _windows(trace: Trace) -> list[str]:
    windows = trace.windows
    if not windows:
        return []
    sizes = sorted(Counter(len(w.frames) for w in windows).items(), reverse=True)
    parts: list[str] = [phrase("{n} of {size} latent frames", n=n, size=size) for size, n in sizes]
    anchored = sum(w.anchor is not None for w in windows)
    if anchored:
        parts.append(phrase("{n} of them with an anchor frame before", n=anchored))
    return [
        phrase(
            "Context windows: {sizes}, over {frames} latent frames; each has a state and "
            "evaluations of its own",
            sizes=together(", ", parts),
            frames=trace.clip_frames,
        )
    ]
