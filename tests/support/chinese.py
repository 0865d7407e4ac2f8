"""The page's Chinese, and what it makes of the server's sentences, as `nodes/web/js/words.js`."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "nodes/web/js"
_STRING = r'"(?:[^"\\]|\\.)*"'
_ENTRY = re.compile(rf"^  ({_STRING}|\w+): ({_STRING}),$", re.MULTILINE)
# what makes sentences, see `motioncache_core/common/phrases.py`
_SAYS = ("phrase", "together")
PLACE = re.compile(r"\{(\w+)[^}]*\}")


def chinese(name: str) -> dict[str, str]:
    """English to Chinese: "reasons", "report" or "page"."""
    script = (SCRIPTS / "chinese" / f"{name}.js").read_text("utf-8")
    found = _ENTRY.findall(script)
    # a line that this does not read would be looked for in vain
    assert len(found) == len(re.findall(r"^  [^/ ]", script, re.MULTILINE)), name
    return {json.loads(k) if k[0] == '"' else k: json.loads(v) for k, v in found}


def places(template: str) -> set[str]:
    return set(PLACE.findall(template))


def put(said: Any, known: dict[str, str]) -> str:
    """A sentence in words, by its data."""
    if isinstance(said, str):
        return known.get(said, said)
    words, parts = said
    found = known.get(words, words)
    if isinstance(parts, list):
        return found.join(put(part, known) for part in parts)
    return PLACE.sub(lambda m: put(parts[m[1]], known), found)


def templates() -> dict[str, str]:
    """Every template and separator in the pack's code, and a file that says it."""
    found: dict[str, str] = {}
    for folder in ("motioncache_core", "nodes"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            source = file.read_text("utf-8")
            if "phrases import" not in source:
                continue
            for call in ast.walk(ast.parse(source)):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") in _SAYS:
                    words = call.args[0]
                    # what is put together elsewhere has no translation
                    literal = isinstance(words, ast.Constant)
                    assert literal or file.name == "reasons.py", f"{file}:{call.lineno}"
                    if literal:
                        found[str(words.value)] = file.name
    return found
