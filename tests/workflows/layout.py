"""Workflow files as text that a person can edit: what fits into a line stays on it."""

from __future__ import annotations

import json
from typing import Any

WIDTH = 100


def as_text(workflow: dict[str, Any]) -> str:
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
