"""What is told of the sweep over ComfyUI's own nodes."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

# distances of this much are rounding of batches that differ
NOTHING = 1e-5
# by how much an effect may differ, as a share of it, and beside that in errors of a plain run
ROOM, ERRORS = 0.25, 4.0
# nodes with the same numbers that are named in one row
_FEW = 3


def alike(effect: float, cached: float, error: float) -> bool:
    """Whether what a node does is about the same cached as uncached.

    Args:
        effect, cached: distances between the runs with the node and without it.
        error: of the plain cached run to the uncached one.
    """
    return abs(cached - effect) <= ROOM * effect + ERRORS * error


def refused(node: Mapping[str, Any]) -> bool:
    """Whether the node is another cache, which is told before a run."""
    cells = [c for places in node.get("presets", {}).values() for c in places.values()]
    return bool(cells) and all(c.get("raised", "").startswith("ConflictError") for c in cells)


def kept(node: Mapping[str, Any], plain: Mapping[str, float] | None = None) -> bool:
    """Whether off was off, nothing was raised, and the effect stayed."""
    if any(off is not True for off in node["off"].values()):
        return False
    for preset, places in node["presets"].items():
        for cell in places.values():
            if "raised" in cell:
                return False
            error = (plain or {}).get(preset, 0.01)
            if not alike(node["effect"], cell["effect"], error):
                return False
    return True


def host_nodes_table(data: Mapping[str, Any]) -> str:
    """Distances with and without each node, uncached and cached."""
    presets, rows = list(data["plain"]), []
    groups = defaultdict[tuple[str, ...], list[str]](list)
    same, others, raised, skipped = [], [], [], defaultdict[str, list[str]](list)
    for name, node in data["nodes"].items():
        if "skipped" in node:
            why = node["skipped"].partition(":")[0]
            skipped[why].append(name)
        elif refused(node):
            others.append(name)
        elif node["effect"] < NOTHING and kept(node, data["plain"]):
            same.append(name)
        else:
            cells = (_cell(node, preset, data["plain"][preset]) for preset in presets)
            groups[(f"{node['effect']:.6f}", *cells)].append(name)
            raised += [name] * (not kept(node, data["plain"]))
    for told, names in groups.items():
        # merges for other models do the same to this one
        more = f" and {len(names) - 1} alike" if len(names) > _FEW else ""
        named = names[0] + more if more else ", ".join(names)
        rows.append(f"| {named} | {float(told[0]):.1%} | {' | '.join(told[1:])} |")
    measured = sum(map(len, groups.values())) + len(same)
    note = [
        f"{measured} nodes of ComfyUI {data['comfyui']} that take a MODEL and give one, on a small "
        f"Wan with random weights, {data['steps']} Euler steps, "
        f"{data['environment']['device']}: relative distance of the latents with the node to "
        "those without it, uncached, and cached with the node before / behind MotionCache. With "
        "the preset off all of them are those without MotionCache, bit for bit"
        + (f", but for {', '.join(raised)}." if raised else "."),
        f"A plain cached run is {_errors(data['plain'])} from the uncached one.",
    ]
    for names in groups.values():
        if len(names) > _FEW:
            note.append(f"Alike: {', '.join(names)}.")
    if same:
        note.append(f"Without an effect on a Wan, and none cached: {', '.join(same)}.")
    if others:
        note.append(f"Refused, as a second cache: {', '.join(others)}.")
    for why, names in sorted(skipped.items()):
        note.append(f"Not run, as it {why}: {', '.join(names)}.")
    head = ["node", "uncached", *presets]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *rows]
    words = "\n\n".join(textwrap.fill(line, 120, break_on_hyphens=False) for line in note)
    return "\n".join([*lines, "", words])


def _cell(node: Mapping[str, Any], preset: str, error: float) -> str:
    told = []
    for cell in node["presets"][preset].values():
        if "raised" in cell:
            told.append(f"**{cell['raised'].partition(':')[0]}**")
        else:
            fine = alike(node["effect"], cell["effect"], error)
            told.append(f"{cell['effect']:.1%}" if fine else f"**{cell['effect']:.1%}**")
    return " / ".join(told)


def _errors(plain: Mapping[str, float]) -> str:
    return ", ".join(f"{error:.2%} ({preset})" for preset, error in plain.items())
