"""The table of rows of answers, from `results/token_answers.json`."""

from __future__ import annotations

from typing import Any

WHOLE = "whole answers"


def token_table(data: dict[str, Any]) -> str:
    """Every way at equal work: its PSNR, and in brackets what it is over whole answers."""
    models = sorted(data["models"], key=lambda name: (name not in data["chosen_on"], name))
    marked = [name if name in data["chosen_on"] else f"{name} *" for name in models]
    head = ("work of", "rows by, keys", *marked)
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    first = data["models"][models[0]]
    for work in sorted(first, key=int):
        for what in first[work]:
            cells = [_cell(data["models"][name][work][what]) for name in models]
            computed = f"{work} of {data['steps']}"
            lines.append(f"| {' | '.join((computed, what, *cells))} |")
    clips = first["7"][WHOLE]["psnr"]["clips"]
    env = data["environment"]
    note = (
        f"Mean decoded PSNR in dB over {clips} clips to the uncached run, {data['steps']} Euler "
        "steps; in brackets the 95 % interval of the difference to whole answers. * nothing was "
        f"chosen on this model. {env['device']}, torch {env['torch']}, commit {env['commit']}."
    )
    return "\n".join([*lines, "", note])


def _cell(row: dict[str, Any]) -> str:
    over = row["over"].get(WHOLE)
    told = f"{row['psnr']['mean']:.1f}"
    if over is None or over["low"] is None:
        return told
    return f"{told} [{over['low']:+.1f}, {over['high']:+.1f}]"
