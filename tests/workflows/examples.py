"""The example workflows. Their files are the source: edit them, then run `make workflows`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
_NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))
# of the model that ships with the pack: they need no file
DEMOS = tuple(name for name in _NAMES if name.startswith("Demo "))
# as Templates lists them
EXAMPLES = DEMOS + tuple(name for name in _NAMES if name not in DEMOS)
WIDTH = 100


def read(name: str) -> dict[str, Any]:
    workflow: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return workflow


def as_text(workflow: dict[str, Any]) -> str:
    """The file of a workflow. What fits into a line stays on it, so that a person can edit it."""
    return _text(workflow, "", "") + "\n"


def _text(value: Any, indent: str, key: str) -> str:
    line = key + json.dumps(value, ensure_ascii=False)
    if not isinstance(value, (dict, list)) or len(indent + line) < WIDTH:
        return line
    inner = indent + " "
    if isinstance(value, dict):
        parts = [_text(item, inner, f"{json.dumps(name)}: ") for name, item in value.items()]
    else:
        parts = [_text(item, inner, "") for item in value]
    begin, end = "{}" if isinstance(value, dict) else "[]"
    return f"{key}{begin}\n" + ",\n".join(inner + part for part in parts) + f"\n{indent}{end}"
