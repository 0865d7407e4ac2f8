"""The table of MAGI-1 runs, from `results/magi1.json`."""

from __future__ import annotations

from typing import Any


def magi_table(data: dict[str, Any]) -> str:
    """Counted work of every kind of run, its error and the clock."""
    head = (
        "run",
        "PFLOP",
        "less work",
        "computed",
        "error",
        "to the published run",
        "by the clock",
    )
    lines = []
    for name, row in data["kinds"].items():
        own = row["error_against"] == data["baseline"]
        cells = (
            name,
            f"{row['pflop']:.1f}",
            f"{row['less_work']:.2f}x",
            f"{row['compute_share']:.0%}",
            f"{row['error']:.4f}{'' if own else ' *'}",
            f"{row['error_to_published']:.4f}",
            f"{row['measured_speedup']:.2f}x",
        )
        lines.append(f"| {' | '.join(cells)} |")
    env, run, paper = data["environment"], data["run"], data["paper_speedups"]
    note = (
        f"{run['chunks']} chunks of {run['steps']} steps, {run['window']} at a time. Errors are "
        "relative distances of the final latents to the same pipeline without reuse: as published, "
        f"or (*) without copies and clean looks. {env['device']}, {env['threads']} thread(s), "
        f"torch {env['torch']}; medians of {data['rounds']} rounds, by CPU time. The paper "
        f"(arXiv 2605.01725) reports {paper['slow']}x with slow and {paper['fast']}x with fast "
        "thresholds over the published run, on a GPU with the real weights."
    )
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines, "", note])
