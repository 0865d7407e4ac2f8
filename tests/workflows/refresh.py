"""Bring the widget values of the example workflows into the order that the nodes have now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from motioncache_pack.tests.workflows import signatures
from motioncache_pack.tests.workflows.examples import FOLDER, as_text

# the order of each node's widgets that the files are in
ORDERS = Path(__file__).with_name("widgets.json")

Orders = dict[str, list[str]]


def refresh(workflow: dict[str, Any], orders: Orders, known: dict[str, Any]) -> None:
    """Move each value to its widget; a new widget takes its default, of one that is gone the value
    is dropped.

    Args:
        orders: names of the widgets of each type of node, in the order that the workflow is in.
        known: signatures of the nodes as they are now.
    """
    for node in workflow["nodes"]:
        kind, values = node["type"], node["widgets_values"]
        if kind not in known:
            raise ValueError(f"node {node['id']} is a {kind}, which is neither ours nor recorded")
        widgets = {w["name"]: w for w in signatures.widgets(known[kind])}
        # a node that no workflow had before was made as it is now
        names = orders.get(kind, list(widgets))
        if len(values) != len(names):
            raise ValueError(
                f"node {node['id']}, a {kind}, has {len(values)} values; write one for each of "
                f"{names}"
            )
        kept = dict(zip(names, values, strict=True))
        node["widgets_values"] = [
            kept.get(name, signatures.default(widget)) for name, widget in widgets.items()
        ]


def refresh_all(
    known: dict[str, Any], folder: Path = FOLDER, record: Path = ORDERS
) -> dict[str, bool]:
    """Refresh the files of a folder and the record of their order; returns which files changed."""
    orders: Orders = json.loads(record.read_text("utf-8"))
    workflows = {f: json.loads(f.read_text("utf-8")) for f in sorted(folder.glob("*.json"))}
    # all of them before the first is written: one that cannot be refreshed leaves all as they are
    for workflow in workflows.values():
        refresh(workflow, orders, known)
    changed = {}
    for file, workflow in workflows.items():
        text = as_text(workflow)
        changed[file.stem] = text != file.read_text("utf-8")
        file.write_text(text, "utf-8", newline="\n")
    used = sorted({node["type"] for workflow in workflows.values() for node in workflow["nodes"]})
    orders = {kind: [w["name"] for w in signatures.widgets(known[kind])] for kind in used}
    record.write_text(as_text(orders), "utf-8", newline="\n")
    return changed
