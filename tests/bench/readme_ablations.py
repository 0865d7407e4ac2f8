"""The README's table of what each setting is worth, from the ablations' result files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from quality_tables import cell, table

# files, and what the README calls their bases
BASES = {"ablations": "the presets' settings", "ablations_paper": "preset `paper`"}
SHARE = "0.40"


def ablation_tables(results: Path) -> str:
    """Each variant against its base where 40% of the tokens are computed, by mode."""
    parts = []
    for name, base in BASES.items():
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
            _differences(data),
            note,
            "</details>",
        ]
    return "\n\n".join(parts)


def _differences(data: dict[str, Any]) -> str:
    modes: dict[str, Any] = data["modes"]
    found: dict[str, dict[str, str]] = {}
    for mode, figures in modes.items():
        for d in figures["differences"]:
            over = "" if d["over"] == "base" else f" (over {d['over']})"
            figure = d["at"]["compute_share"][SHARE]["psnr"]
            told = cell(figure, figures["clips"], 1, True)
            found.setdefault(d["policy"] + over, {})[mode] = told
    rows = [[name, *(told.get(mode, "") for mode in modes)] for name, told in found.items()]
    return table([f"changed, dB at {SHARE} of the tokens", *modes], rows)
