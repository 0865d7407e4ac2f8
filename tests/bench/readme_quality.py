"""Tables of Measurements from the result files of the quality benches."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from quality.analysis import CPU_TIME
from quality.attention_report import NOTE, markdown
from quality.tables import cell, table

# files, what the page calls their models, and what else it says of them
FILES = {
    "quality": ("model tracks", ""),
    "quality_confirmation": ("the confirmation model", ""),
    "quality_confirmation_50_steps": ("the confirmation model", ", 50 steps"),
}
# of these only the differences are told
BRIEF = ("quality_confirmation_50_steps",)
MODES = {"ordinary": "Ordinary sampling", "forcing": "Block-causal diffusion forcing"}
SHARES = ("0.30", "0.40", "0.50")
WORK = "compute_share"
# files of the ablations, what the page calls their bases, and where they are told: below half of
# the tokens the published warm-up and uniform phase take the run
BASES = {
    "ablations": ("the presets' settings", ("0.30", "0.40")),
    "ablations_paper": ("preset `paper`", ("0.40", "0.50")),
}


def quality_tables(results: Path) -> str:
    """Decibels at equal compute and differences, of every model that was measured."""
    parts = []
    for name, (model, more) in FILES.items():
        file = results / f"{name}.json"
        if not file.exists():
            parts.append(f"{model.capitalize()}{more}: not measured yet.")
            continue
        data = json.loads(file.read_text(encoding="utf-8"))
        for mode, figures in data["modes"].items():
            parts.append(f"### {MODES.get(mode, mode)}, {model}{more}")
            if name not in BRIEF:
                parts.append(_decibels(figures))
            parts.append(_compared(figures))
        parts.append(
            f"{data['seeds']} clips of {model} in each mode, {data['steps']} steps, "
            f"{data['environment']['device']}."
        )
    return "\n\n".join(parts)


def _at(figures: dict[str, Any], share: str, axis: str = WORK) -> dict[str, Any]:
    found: dict[str, Any] = figures["at"][axis][share]
    return found


def _decibels(figures: dict[str, Any]) -> str:
    clips = figures["clips"]
    rows = [
        [name, *(cell(_at(policy, s)["psnr"], clips, 1) for s in SHARES)]
        for name, policy in figures["policies"].items()
    ]
    return table(["PSNR in dB where the tokens computed are", *SHARES], rows)


def _compared(figures: dict[str, Any]) -> str:
    clips = figures["clips"]
    rows = []
    for d in figures["differences"]:
        measured = {"": ("psnr", WORK)}
        if d["over"].endswith("forecast"):
            measured |= {
                ", where it moves": ("psnr_moving", WORK),
                ", at equal CPU time": ("psnr", CPU_TIME),
            }
        for where, (metric, axis) in measured.items():
            cells = (cell(_at(d, s, axis)[metric], clips, 1, True) for s in SHARES)
            rows.append([f"{d['policy']} over {d['over']}{where}", *cells])
    return table(["difference in dB, clip by clip", *SHARES], rows)


def ablation_tables(results: Path) -> str:
    """Each variant against its base at equal compute, by mode."""
    parts = []
    for name, (base, shares) in BASES.items():
        file = results / f"{name}.json"
        if not file.exists():
            parts.append(f"Changes to {base}: not measured yet.")
            continue
        data = json.loads(file.read_text(encoding="utf-8"))
        note = (
            f"{data['seeds']} clips of model {data['model']} in each mode, {data['steps']} steps."
        )
        parts += [
            f"<details><summary>Changes to {base}</summary>",
            _changed(data, shares),
            note,
            "</details>",
        ]
    return "\n\n".join(parts)


def _changed(data: dict[str, Any], shares: Sequence[str]) -> str:
    modes: dict[str, Any] = data["modes"]
    found: dict[str, dict[str, str]] = {}
    for mode, figures in modes.items():
        for d in figures["differences"]:
            over = "" if d["over"] == "base" else f" (over {d['over']})"
            told = found.setdefault(d["policy"] + over, {})
            for share in shares:
                figure = d["at"]["compute_share"][share]["psnr"]
                told[f"{mode}, {share}"] = cell(figure, figures["clips"], 1, True)
    columns = [f"{mode}, {share}" for mode in modes for share in shares]
    rows = [[name, *(told.get(column, "") for column in columns)] for name, told in found.items()]
    return table(["changed, dB at a share of the tokens", *columns], rows)


def attention_tables(results: Path) -> str:
    """What each attention's video is worth, and what reuse keeps of it, by model."""
    parts = []
    for model, name in (("tracks", "attention"), ("confirmation", "attention_confirmation")):
        data = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        note = f"{data['seeds']} clips, {data['steps']} steps."
        parts += [f"### The two, on the {model} model", markdown(data["figures"]), note]
    return "\n\n".join((*parts, NOTE))
