"""What the pages say of rivals, from `results/rivals.json` and `rivals_50.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parent / "results" / "rivals.json"


def rivals_page(data: dict[str, Any]) -> str:
    """The tables, made by their bench."""
    # only here, as it brings scipy along
    from rivals.table import page

    return page(data)


def rival_row(models: Sequence[str]) -> tuple[str, list[str]]:
    """What we are ahead of the closest rival: a table's row, and what has to be known of it."""
    from rivals.table import closest, in_a_cell

    data: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    counts = " / ".join(map(str, data["evaluations"]))
    row = [f"minus the closest rival ({counts} of {data['steps']})"]
    for model in models:
        found = closest(data, model) if model in data["models"] else {}
        row.append(in_a_cell({n: apart for n, (_, apart) in found.items()}))
    note = f"Last row: {len(data['seeds'])} other clips, ? where the 95 % interval holds 0."
    return note, row
