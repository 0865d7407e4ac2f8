"""The README's table of what each setting is worth, from the ablations' result files."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from quality.tables import cell, table

# files, what the README calls their bases, and where they are told: below half of the tokens the
# published warm-up and uniform phase take the run
BASES = {
    "ablations": ("the presets' settings", ("0.30", "0.40")),
    "ablations_paper": ("preset `paper`", ("0.40", "0.50")),
}


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
            _differences(data, shares),
            note,
            "</details>",
        ]
    return "\n\n".join(parts)


def _differences(data: dict[str, Any], shares: Sequence[str]) -> str:
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
