"""A stand-in for the part of ComfyUI that this pack uses, so that tests run where ComfyUI is not.

Written from ComfyUI's observable behaviour (0.33); the tests in `tests/comfyui/test_contract*.py`
compare it with the real one. Module paths below this package mirror the host's. Simplified on
purpose: one device, one latent format, no areas, conditioning masks, hooks or control nets.

    undo = fake_comfy.install()     # or the ComfyUI that COMFYUI_PATH names
    host = fake_comfy.harness.Host()
    patcher = host.patcher(network)
    latent = host.run(patcher, host.text(1), host.text(2), steps=10, cfg=5.0)
    undo()
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Callable
from types import ModuleType

from . import comfy, comfy_api, cond_batch, folder_paths, harness
from .comfy.sd import set_network_factory

__all__ = [
    "comfy",
    "comfy_api",
    "cond_batch",
    "folder_paths",
    "harness",
    "install",
    "modules",
    "set_network_factory",
]


def modules() -> dict[str, ModuleType]:
    """The stand-in's modules by the name that ComfyUI gives them."""
    found = {"folder_paths": folder_paths}
    for root in (comfy, comfy_api):
        prefix = root.__name__.rpartition(".")[0] + "."
        found[root.__name__.removeprefix(prefix)] = root
        for info in pkgutil.walk_packages(root.__path__, root.__name__ + "."):
            found[info.name.removeprefix(prefix)] = importlib.import_module(info.name)
    return found


def install() -> Callable[[], None]:
    """Make `import comfy` give the stand-in and return a function that takes it away again.

    With COMFYUI_PATH set the real ComfyUI is prepared instead, and there is nothing to take away.
    """
    path = os.environ.get("COMFYUI_PATH")
    if path:
        harness.use_real_comfy(path)
        return lambda: None
    mine = modules()
    taken = [name for name in mine if sys.modules.get(name) not in (None, mine[name])]
    if taken:
        raise RuntimeError(f"{taken[0]} is imported already; install the stand-in before it")
    added = [name for name in mine if name not in sys.modules]
    sys.modules.update(mine)

    def undo() -> None:
        for name in added:
            sys.modules.pop(name, None)

    return undo
