"""What runs in another process: it is sent there as code, where the pack is not yet known."""

from __future__ import annotations

from typing import Any


def in_worker(model: Any, name: str, folder: str, work: str, told: bytes) -> Any:
    """A function of `raylight.py`, in a process that has a model but not the pack.

    Args:
        name: of the pack's package in the process that asks: with the same one, what is pickled
            there is found here, and the other way round.
        folder: of the pack.
        work: the function's name.
        told: its arguments behind the model, pickled.
    """
    import importlib
    import importlib.util
    import pickle
    import sys
    from pathlib import Path

    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, Path(folder) / "__init__.py", submodule_search_locations=[folder]
        )
        if spec is None or spec.loader is None or not Path(folder).is_dir():
            raise RuntimeError(f"MotionCache is not in {folder} on this machine. Install it there")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    module = importlib.import_module(f"{name}.nodes.host.raylight")
    return getattr(module, work)(model, *pickle.loads(told))
