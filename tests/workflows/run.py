"""Bring the example workflows up to the nodes as they are now.

python tests/workflows/run.py                                  # where our nodes changed
python tests/workflows/run.py --host http://127.0.0.1:8188     # to the host's nodes of that server

The files in `workflows/` are edited as they are. Only where the widgets of a node changed their
order, or one came or went, does this rewrite values.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from pack_loader import load_pack

load_pack()

from motioncache_pack.tests.support import fake_comfy  # noqa: E402
from motioncache_pack.tests.workflows import signatures  # noqa: E402
from motioncache_pack.tests.workflows.examples import (  # noqa: E402
    EXAMPLES,
    FOLDER,
    as_text,
    read,
)

# the order of each node's widgets that the files are in
ORDERS = Path(__file__).with_name("widgets.json")


def refresh(workflow: dict[str, Any], orders: dict[str, list[str]], known: dict[str, Any]) -> None:
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
    orders = json.loads(record.read_text("utf-8"))
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


def record_host(server: str) -> None:
    """Record the signatures of the host's nodes that the examples use from a running ComfyUI."""
    get = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    with get(f"{server}/object_info") as infos, get(f"{server}/system_stats") as stats:
        infos, version = json.load(infos), json.load(stats)["system"]["comfyui_version"]
    used = {node["type"] for name in EXAMPLES for node in read(name)["nodes"]}
    core = sorted(used - signatures.ours().keys() - signatures.NOTES.keys())
    nodes = {kind: signatures.from_info(infos[kind]) for kind in core}
    signatures.CORE_FILE.write_text(as_text({"comfyui": version, "nodes": nodes}), "utf-8")
    print(f"{len(core)} nodes of ComfyUI {version}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", metavar="URL", help="record the host's nodes anew first")
    host = parser.parse_args().host
    fake_comfy.install()
    if host:
        record_host(host.rstrip("/"))
    for name, changed in refresh_all(signatures.known()).items():
        print(f"{name}: {'changed' if changed else 'as it was'}")


if __name__ == "__main__":
    main()
