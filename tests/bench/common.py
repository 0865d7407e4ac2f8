"""What the benches share: the pack under its alias, and where a number was measured."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def load_pack() -> None:
    """Make the repository importable as the package `motioncache_pack`."""
    if "motioncache_pack" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        "motioncache_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    if spec is None or spec.loader is None:
        raise RuntimeError(f"cannot load the pack from {ROOT}")
    module = importlib.util.module_from_spec(spec)
    sys.modules["motioncache_pack"] = module
    spec.loader.exec_module(module)


def environment() -> dict[str, str | int]:
    """Machine, versions and commit, for result files."""
    git = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    return {
        "device": device,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": git.stdout.strip(),
    }
