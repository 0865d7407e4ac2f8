"""Write `locales/en` from the node definitions.

python tests/locales/run.py

The other languages are written by hand, with the same keys; `test_locales.py` says what is missing.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ENGLISH = ROOT / "locales" / "en" / "nodeDefs.json"


sys.path.insert(0, str(ROOT / "tests" / "support"))

from pack_loader import load_pack  # noqa: E402


def definitions() -> dict[str, Any]:
    """Names and help of all nodes, in the layout of ComfyUI's `nodeDefs.json`; needs `comfy_api`
    or its stand-in."""
    nodes = importlib.import_module("motioncache_pack.nodes").NODES
    return {node.define_schema().node_id: _node(node.define_schema()) for node in nodes}


def _node(schema: Any) -> dict[str, Any]:
    inputs = {i.id: {"name": i.display_name or i.id, "tooltip": i.tooltip} for i in schema.inputs}
    # the page finds outputs by position
    outputs = {
        str(n): {"name": o.display_name, "tooltip": o.tooltip} for n, o in enumerate(schema.outputs)
    }
    found = {"display_name": schema.display_name, "description": schema.description}
    return {**found, "inputs": inputs, "outputs": outputs}


def as_json(translation: dict[str, Any]) -> str:
    return json.dumps(translation, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    load_pack()
    from motioncache_pack.tests.support import fake_comfy

    fake_comfy.install()
    found = definitions()
    ENGLISH.parent.mkdir(parents=True, exist_ok=True)
    ENGLISH.write_text(as_json(found), "utf-8", newline="\n")
    print(f"locales/en: {len(found)} nodes")


if __name__ == "__main__":
    main()
