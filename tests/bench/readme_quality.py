"""The README's quality tables, from the quality bench's result files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from quality.analysis import CPU_TIME
from quality.tables import cell, table

# files, what the README calls their models, and what else it says of them
FILES = {
    "quality": ("the demo model", ""),
    "quality_confirmation": ("the confirmation model", ""),
    "quality_confirmation_50_steps": ("the confirmation model", ", 50 steps"),
}
# of these only the differences are told
BRIEF = ("quality_confirmation_50_steps",)
MODES = {"ordinary": "Ordinary sampling", "forcing": "Block-causal diffusion forcing"}
SHARES = ("0.30", "0.40", "0.50")
WORK = "compute_share"


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
            parts.append(f"**{MODES.get(mode, mode)}, {model}{more}**")
            if name not in BRIEF:
                parts.append(_decibels(figures))
            parts.append(_differences(figures))
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


def _differences(figures: dict[str, Any]) -> str:
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
