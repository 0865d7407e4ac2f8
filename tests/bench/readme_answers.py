"""The tables of foretold evaluations, from `results/answers.json`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

METHODS = ("ours", "without hindsight", "held", "residual", "fewer steps")


def answer_tables(data: dict[str, Any]) -> str:
    """Everything, model by model."""
    tables = (budget_table, count_table, sampler_table, every_table, _where)
    return "\n\n".join(table(data) for table in tables)


# evaluations of the presets fast, balanced and quality
PRESETS = {"fast": "7 of 24", "balanced": "10 of 24", "quality": "12 of 24"}


def answer_summary(data: dict[str, Any], rival: Callable[..., tuple[str, list[str]]]) -> str:
    """What the presets cost on every model, beside what else could be done.

    Args:
        rival: a row of these models, and its note.
    """
    models = list(data["budgets"])
    head = ("preset: ours / residual as before / fewer steps", *models)
    lines = []
    for preset, computed in PRESETS.items():
        cells = []
        for model in models:
            told = data["budgets"][model][computed]["psnr"]
            names = ("ours", "residual", "fewer steps")
            cells.append(" / ".join(f"{told[n]['mean']:.1f}" for n in names))
        lines.append(f"| {' | '.join((f'{preset} ({computed})', *cells))} |")
    about, row = rival(models)
    lines.append(f"| {' | '.join(row)} |")
    clips = data["budgets"][models[0]]["10 of 24"]["psnr"]["ours"]["clips"]
    note = f"Mean PSNR in dB to the uncached run, {clips} clips each, 24 Euler steps. {about}"
    return "\n".join([_head(head), *lines, "", note])


def cost_line(data: dict[str, Any]) -> str:
    """What a foretold evaluation costs."""
    net = data["network"]
    return (
        f"Of a network of width {net['width']} with {net['layers']} blocks and {net['tokens']} "
        f"tokens a foretold evaluation takes {data['share_of_computed']:.3%} of a computed one on "
        f"a CPU, and {data['latents_kept']:.2f} latents a pass are kept."
    )


def clock_table(data: dict[str, Any]) -> str:
    """The least time that is enough to come as close as `balanced` once did."""
    head = ("model", "PSNR to reach", "residual", "ours", "fewer steps")
    lines = []
    for model, row in data["models"].items():
        enough = (row["before"], row["ours"], row["fewer steps"])
        times = ("not reached" if t is None else f"{t:.0%}" for t in enough)
        lines.append(f"| {' | '.join((model, format(row['wanted'], '.1f'), *times))} |")
    most = max(map(int, next(iter(data["models"].values()))["at"]["ours"]))
    note = (
        f"Share of the uncached run's time on a CPU, {data['steps']} Euler steps, {data['clips']} "
        f"clips: what `balanced` took with residuals ({data['before']} asked for), and the least "
        f"that is enough to come as close, of up to {most} evaluations."
    )
    return "\n".join([_head(head), *lines, "", note])


def budget_table(data: dict[str, Any]) -> str:
    """PSNR of every method, and what is gained over the strongest of the others."""
    head = ("model", "computed", *METHODS, "over residual", "over fewer steps")
    lines = []
    for model, rows in data["budgets"].items():
        for computed, row in sorted(rows.items(), key=_by_steps):
            cells = [f"{row['psnr'][m]['mean']:.1f}" for m in METHODS]
            gains = [_gain(row["gain"][m]) for m in ("residual", "fewer steps")]
            chosen = "" if model in data["chosen_on"] else " *"
            lines.append(f"| {' | '.join((model + chosen, computed, *cells, *gains))} |")
    clips = next(iter(next(iter(data["budgets"].values())).values()))["psnr"]["ours"]["clips"]
    note = (
        f"Euler, mean decoded PSNR in dB over {clips} clips to the uncached run of the same noise; "
        "in brackets the 95 % interval of the difference. *Residual* is what the presets carried "
        "before: the block stack's residual, forecast linearly, whole evaluations. * no "
        "setting was tuned on this model; the form of the placement was changed after looks at "
        "text_confirmation and confirmation."
    )
    return "\n".join([_head(head), *lines, "", note])


def count_table(data: dict[str, Any]) -> str:
    """Every count of evaluations, placed by the run and by the schedule alone."""
    at = list(next(iter(data["counts"].values()))["psnr"]["ours"])
    head = ("model", "placed by", *at, "mean gain")
    lines = []
    for model, row in data["counts"].items():
        chosen = "" if model in data["chosen_on"] else " *"
        for method, by in (("as planned", "the schedule"), ("ours", "the run")):
            cells = [f"{row['psnr'][method][n]:.1f}" for n in at]
            gain = _gain(row["gain"]) if method == "ours" else ""
            lines.append(f"| {' | '.join((model + chosen, by, *cells, gain))} |")
    clips = next(iter(data["counts"].values()))["gain"]["clips"]
    note = (
        f"Every count of 24 Euler steps, PSNR in dB over {clips} clips. Which evaluations a count "
        "falls on is luck as well: single columns differ by more than the mean over all of them."
    )
    return "\n".join([_head(head), *lines, "", note])


def sampler_table(data: dict[str, Any]) -> str:
    """The samplers that people use, to their own steps and to the limit."""
    head = (
        "model", "sampler", "computed", "ours", "fewer steps", "gain",
        "ours, to the limit", "fewer steps", "all steps",
    )  # fmt: skip
    lines = []
    for model, samplers in data["samplers"].items():
        for sampler, rows in samplers.items():
            for computed, row in sorted(rows.items(), key=_by_steps):
                if "ours" not in row["psnr"]:
                    continue
                steps = computed.rpartition(" ")[2]
                whole = rows[f"{steps} of {steps}"]["limit"]["all steps"]
                cells = (
                    model, sampler, computed,
                    f"{row['psnr']['ours']:.1f}", f"{row['psnr']['fewer steps']:.1f}",
                    _gain(row["gain"]["psnr"]),
                    f"{row['limit']['ours']:.1f}", f"{row['limit']['fewer steps']:.1f}",
                    f"{whole:.1f}",
                )  # fmt: skip
                lines.append(f"| {' | '.join(cells)} |")
    note = (
        "PSNR in dB to the sampler's own uncached run, and to the limit of many steps (150 of "
        "dpmpp_2m), which says what is lost of the video rather than of the run."
    )
    return "\n".join([_head(head), *lines, "", note])


def every_table(data: dict[str, Any]) -> str:
    """Every sampler of the host."""
    models = list(next(iter(data["every"].values()), {"psnr": {}})["psnr"])
    head = ("sampler", "share computed", *(f"{m}: ours / held / fewer steps" for m in models))
    lines = []
    for sampler, row in data["every"].items():
        cells = []
        for model in models:
            told = row["psnr"].get(model, {})
            names = ("ours", "held", "fewer steps")
            cells.append(" / ".join(f"{told[n]:.1f}" if n in told else "-" for n in names))
        share = f"{row['share']:.3f}"
        lines.append(f"| {' | '.join((sampler, share, *cells))} |")
    note = "Every sampler of ComfyUI 0.33, 24 steps, 0.4 asked for; PSNR in dB."
    return "\n".join([_head(head), *lines, "", note])


def _where(data: dict[str, Any]) -> str:
    found = data["environments"].values()
    told = dict.fromkeys(f"{e['device']}, torch {e['torch']}, commit {e['commit']}" for e in found)
    return f"{'; '.join(told)}."


def _head(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |\n|{'---|' * len(cells)}"


def _by_steps(item: tuple[str, Any]) -> tuple[int, int]:
    n, steps = item[0].split(" of ")
    return int(steps), int(n)


def _gain(estimate: dict[str, Any] | None) -> str:
    if estimate is None:
        return "-"
    told = f"{estimate['mean']:+.1f}"
    if estimate["low"] is None:
        return told
    return f"{told} [{estimate['low']:+.1f}, {estimate['high']:+.1f}]"
