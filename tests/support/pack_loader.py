"""The repository as one package, for scripts that run as files."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def load_pack() -> None:
    """Make the repository importable as `motioncache_pack`, as ComfyUI does under its own name."""
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
