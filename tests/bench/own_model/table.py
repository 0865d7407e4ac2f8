"""From a user's runs to figures and Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from own_model.policies import AGAIN, NONE, OURS, WHOLE, Job, swept_over
from own_model.runs import Clip, Plan
from quality.stats import LEAST_CLIPS, at_share, bootstrap, paired
from quality.tables import cell, table
from run_store import Record

COMPUTE = (0.70, 0.60, 0.50, 0.40, 0.30)
SPEEDUPS = (1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
# title and digits of every measure
MEASURES = {
    "speedup": ("speed-up", 2),
    "compute_share": ("tokens computed", 2),
    "psnr": ("PSNR, dB", 1),
    "ssim": ("SSIM", 4),
    "temporal_psnr": ("frame differences, dB", 1),
    "psnr_moving": ("moving, dB", 1),
    "psnr_static": ("static, dB", 1),
    "memory_mib": ("memory, MiB", 0),
}
NOTE = (
    "PSNR and SSIM are to the uncached video of the same prompt and seed, in frames of 8 bits; "
    "identical videos have no decibels and are counted apart. Speed-up is the time of the sampler "
    "nodes alone, against the quicker of two uncached runs of the clip; what a sampler loads is in "
    "it. Memory is what MotionCache holds, on the device and beside it. Means over clips, with "
    "95 % bootstrap intervals that take clips for independent. A number in brackets behind a "
    "figure says how many clips have it, where not all do."
)


def of_clips(plan: Plan, records: dict[str, Record]) -> dict[Job, list[Record | None]]:
    """Every job's runs, clip by clip, each with `speedup` and `time_share`; None where one is not
    made, failed, or has no uncached run beside it."""

    def good(clip: Clip, job: Job) -> Record | None:
        record = records.get(plan.key(clip, job))
        return None if record is None or record["error"] else record

    def beside_uncached(clip: Clip, job: Job) -> Record | None:
        record, first, again = (good(clip, j) for j in (job, Job(NONE), Job(AGAIN)))
        if record is None or first is None or not record["seconds"]:
            return None
        share = record["seconds"] / min(r["seconds"] for r in (first, again) if r is not None)
        return record | {"time_share": share, "speedup": 1 / share}

    jobs = [job for job in plan.jobs if job.policy != NONE]
    return {job: [beside_uncached(clip, job) for clip in plan.clips] for job in jobs}


def figures(plan: Plan, records: dict[str, Record]) -> dict[str, Any]:
    """All figures, ready for JSON."""
    runs = of_clips(plan, records)
    failures: dict[str, list[str]] = {job.label: [] for job in plan.jobs}
    for _, job, key in plan.runs():
        if error := records.get(key, {}).get("error"):
            failures[job.label].append(error)
    return {
        "clips": len(plan.clips),
        "policies": {
            job.label: _policy([r for r in found if r is not None], failures[job.label])
            for job, found in runs.items()
        },
        "uncached_failures": failures[NONE],
        "at_compute": _curves(plan, runs, "compute_share", COMPUTE),
        "at_speedup": _curves(plan, runs, "time_share", [1 / s for s in SPEEDUPS]),
    }


def _policy(runs: Sequence[Record], failures: list[str]) -> dict[str, Any]:
    psnr = [r["psnr"] for r in runs if r["psnr"] is not None]
    return {
        "runs": len(runs),
        "identical": sum(r["identical"] for r in runs),
        "worst_clip": min(psnr, default=None),
        **{name: bootstrap([r.get(name) for r in runs]) for name in MEASURES},
        "failures": dict(Counter(failures)),
        "reasons": dict(Counter(reason for r in runs for reason in set(r.get("reasons", ())))),
        "whole": sum(_whole(r) for r in runs),
        "distance": sorted({d for r in runs for d in r.get("distance", ())}),
        "kv": sorted({k for r in runs for k in r.get("kv", ())}),
    }


def _whole(record: Record) -> bool:
    """Whether a run that could have computed some tokens computed all or none every time."""
    kinds = record.get("evaluations")
    reused = kinds is not None and kinds["reuse"] and not kinds["partial"]
    return bool(reused) and record["policy"] not in WHOLE


def _curves(
    plan: Plan, runs: dict[Job, list[Record | None]], axis: str, places: Sequence[float]
) -> dict[str, Any]:
    """PSNR of swept policies at equal cost, and what OURS has over each of the others."""
    at: dict[str, list[list[float | None]]] = {}
    for policy, count in Counter(job.policy for job in runs).items():
        if count > 1:
            sweep = [found for job, found in runs.items() if job.policy == policy]
            clips = [_points([found[i] for found in sweep], axis) for i in range(len(plan.clips))]
            at[policy] = [[at_share(points, place) for points in clips] for place in places]
    return {
        "psnr": {policy: [bootstrap(values) for values in rows] for policy, rows in at.items()},
        "over": {
            policy: [paired(a, b) for a, b in zip(at[OURS], rows, strict=True)]
            for policy, rows in at.items()
            if OURS in at and policy != OURS
        },
    }


def _points(sweep: Sequence[Record | None], axis: str) -> list[tuple[float, float]]:
    """Where a clip's runs of a policy lie. One that is identical has no decibels."""
    known = (r for r in sweep if r is not None and r.get(axis) is not None)
    return [(float(r[axis]), float(r["psnr"])) for r in known if r["psnr"] is not None]


def markdown(title: str, facts: dict[str, str], plan: Plan, found: dict[str, Any]) -> str:
    """The tables, and what there is to say about them."""
    clips = found["clips"]
    where = ", ".join(f"{name} {value}" for name, value in facts.items())
    head = ["policy", *(name for name, _ in MEASURES.values()), "worst clip, dB", "identical"]
    rows = [
        [
            label,
            *(cell(p[name], clips, digits) for name, (_, digits) in MEASURES.items()),
            "-" if p["worst_clip"] is None else f"{p['worst_clip']:.1f}",
            f"{p['identical']} of {p['runs']}",
        ]
        for label, p in found["policies"].items()
    ]
    parts = [f"# {title}", f"Clips: {clips}. {where}.", NOTE, table(head, rows)]
    notes = list(_notes(plan, found))
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    for key, name, places in (
        ("at_compute", "tokens computed", [f"{share:.2f}" for share in COMPUTE]),
        ("at_speedup", "speed-up", [f"{speedup:g}x" for speedup in SPEEDUPS]),
    ):
        parts += _tables(found[key], name, places, clips)
    return "\n\n".join(parts) + "\n"


def _tables(found: dict[str, Any], name: str, places: list[str], clips: int) -> list[str]:
    """Tables of a sweep; none where there is no sweep, no column that no policy reaches."""
    parts = []
    for key, over in (("psnr", ""), ("over", f"{OURS} over ")):
        rows = {policy: row for policy, row in found[key].items() if any(row)}
        reached = [i for i in range(len(places)) if any(row[i] for row in rows.values())]
        if rows and not over:
            parts.append(
                f"PSNR at equal {name}, linear between the two runs of a clip's sweep next to it, "
                "never beyond the sweep:"
            )
        if rows:
            head = [f"{name}:", *(places[i] for i in reached)]
            body = [
                [over + policy, *(cell(row[i], clips, 1, bool(over)) for i in reached)]
                for policy, row in rows.items()
            ]
            parts.append(table(head, body))
    return parts


def _notes(plan: Plan, found: dict[str, Any]) -> list[str]:
    again = found["policies"].get(AGAIN)
    notes = []
    if again and again["runs"]:
        same, runs = again["identical"], again["runs"]
        if same == runs:
            notes.append(f"Two uncached runs are identical in {same} of {runs} clips.")
        else:
            notes.append(
                f"**This model is not deterministic**: two uncached runs of a clip differ in "
                f"{runs - same} of {runs} clips, by {again['psnr']['mean']:.1f} dB. No policy can "
                "be told to be closer than that."
            )
    if found["clips"] < LEAST_CLIPS:
        notes.append(f"No intervals: {found['clips']} clips, {LEAST_CLIPS} are needed.")
    for patcher, samplers in plan.found.samplers.items():
        if len(samplers) > 1:
            notes.append(
                f"MotionCache node {patcher} feeds {len(samplers)} samplers; tokens and reasons "
                "are those of the one that ran last. Give each sampler a node of its own."
            )
    swept = {job.policy: swept_over(job.policy) for job in plan.jobs if job.value is not None}
    for name in sorted({name for name in swept.values() if name}):
        told = ", ".join(policy for policy, theirs in swept.items() if theirs == name)
        notes.append(f"The number after *at* is the {name} of {told}.")
    failed = Counter(found["uncached_failures"])
    notes += [f"none failed in {n} clips: {e}" for e, n in failed.items()]
    for label, p in found["policies"].items():
        notes += [f"{label} failed in {n} clips: {error}" for error, n in p["failures"].items()]
        notes += [
            f"{label}, {n} runs: a MotionCache node reused nothing: {why}"
            for why, n in p["reasons"].items()
        ]
    whole = [f"{label} ({p['whole']} runs)" for label, p in found["policies"].items() if p["whole"]]
    if whole:
        notes.append(
            f"All that was reused was reused whole, and no tokens were told apart: "
            f"{', '.join(whole)}. More steps, fewer warmup_steps or uniform_updates reach the "
            "motion phase."
        )
    distances = sorted({d for p in found["policies"].values() for d in p["distance"]})
    return notes + [f"Distance: {d}" for d in distances]
