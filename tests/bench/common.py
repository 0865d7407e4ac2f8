"""What the benches share: the pack under its alias, and where a number was measured."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "bench" / "results"

sys.path.insert(0, str(ROOT / "tests" / "support"))

from pack_loader import load_pack  # noqa: E402

# every bench imports this module before the pack
load_pack()


def told(*command: str) -> str:
    """What a command prints; "unknown" where it is missing or fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else "unknown"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def environment() -> dict[str, str | int]:
    """Machine, versions and commit, for result files. `MOTIONCACHE_COMMIT` names the commit where
    there is no checkout."""
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    here: dict[str, str | int] = {
        "device": device,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": os.environ.get("MOTIONCACHE_COMMIT")
        or told("git", "rev-parse", "--short", "HEAD"),
    }
    if device != "cpu":
        query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        here["driver"] = told(*query).splitlines()[0]
        here["cuda"] = str(torch.version.cuda)
        here["triton"] = _version("triton")
    return here


def save(path: Path, data: dict[str, Any]) -> None:
    """Write a result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def code_hash(files: Iterable[Path]) -> str:
    """Names the code in these files."""
    code = hashlib.sha256()
    for file in sorted(files):
        code.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    return code.hexdigest()[:16]


def rows_of_others(
    path: Path, environment: dict[str, str | int], geometries: list[str]
) -> list[dict[str, Any]]:
    """Rows that a result file has of other geometries, for a bench that is run in parts.

    Raises:
        SystemExit: the file is of another device or commit.
    """
    if not path.exists():
        return []
    data = json.loads(path.read_text(encoding="utf-8"))
    for key in ("device", "commit"):
        if data["environment"][key] != environment[key]:
            sys.exit(
                f"{path} is of {key} {data['environment'][key]}, this run of {environment[key]}; "
                "their rows cannot share a file. Write to another one, or leave --add out."
            )
    return [row for row in data["rows"] if row["geometry"] not in geometries]
