"""What is told of the families that are known token by token."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from typing import Any

CHECKS = ("all rows", "subset", "changed")


def families_table(data: Mapping[str, Any]) -> str:
    """One row a family: the gate, the errors of the checks, shares and bytes.

    Raises:
        SystemExit: a family of the file is not bit-identical with the preset off.
    """
    rows = []
    for name, row in data["families"].items():
        if row["off"] is not True:
            sys.exit(f"{name} is not bit-identical with the preset off; fix that and measure again")
        balanced, motion = (row["presets"][preset] for preset in ("balanced", "motion"))
        cells = (
            name,
            "same bits",
            *(_error(row["checks"][check], data["tolerance"]) for check in CHECKS),
            _share(balanced),
            _share(motion),
            _kib(motion["kv_bytes"]),
            _kib(balanced["answer_bytes"]),
        )
        rows.append(f"| {' | '.join(cells)} |")
    env = data["environment"]
    note = (
        f"ComfyUI {data['comfyui']}, small networks of its own classes with random weights, two "
        f"prompts, {data['steps']} Euler steps; {env['device']}, torch {env['torch']}. Errors are "
        "the largest one over the root mean square of what was expected; in bold one above "
        f"{data['tolerance']:g}."
    )
    head = (
        "family", "off", *CHECKS, "computed, balanced", "computed, motion",
        "keys and values, motion", "answers, balanced",
    )  # fmt: skip
    table = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *rows]
    return "\n".join([*table, "", textwrap.fill(note, 120, break_on_hyphens=False)])


def _error(error: float, tolerance: float) -> str:
    told = f"{error:.0e}" if error else "0"
    # a NaN must not pass
    return told if error <= tolerance else f"**{told}**"


def _share(cell: Mapping[str, Any]) -> str:
    if cell["reason"]:
        return "**declined**"
    return f"{cell['share']:.0%}"


def _kib(size: int) -> str:
    return f"{size / 1024:.0f} KiB"
