"""Triton kernels. Importing this package imports no Triton: the probe does, at the first use."""

from __future__ import annotations

import functools
import importlib
import os
import re

import torch

from ..library import KERNEL_DTYPES
from ..ops import OPS
from ..registry import Backend

MINIMUM_VERSION = (3, 3)


def interpreting() -> bool:
    """Whether Triton's interpreter is on, which runs kernels on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


@functools.cache
def status() -> tuple[bool, str]:
    """(usable, its version or the reason why not) of the installed Triton."""
    try:
        triton = importlib.import_module("triton")
    # a broken install raises anything, such as OSError for a missing DLL
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "triton":
            return False, "Triton is not installed"
        return False, f"Triton cannot be imported ({type(error).__name__}: {error})"
    version = getattr(triton, "__version__", "")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if not numbers or not hasattr(triton, "jit"):
        return False, "the module named triton is not OpenAI Triton (no version or no jit)"
    if numbers < MINIMUM_VERSION:
        wanted = ".".join(map(str, MINIMUM_VERSION))
        return False, f"Triton {version} is older than {wanted}"
    return True, version


def probe(device: torch.device) -> str | None:
    if device.type not in ("cuda", "cpu"):
        return f"no kernels for device {device.type}"
    usable, detail = status()
    if not usable:
        return detail
    if device.type == "cpu":
        return None if interpreting() else "a CPU tensor needs TRITON_INTERPRET=1"
    return _device_refusal(device)


@functools.cache
def _device_refusal(device: torch.device) -> str | None:
    if torch.version.hip is not None:
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return None if major >= 8 else f"compute capability {major}.{minor} is below 8.0"


BACKEND = Backend(
    name="triton",
    package=__name__,
    probe=probe,
    describe=status,
    dtypes={op.__name__: KERNEL_DTYPES[op.__name__] for op in OPS},
    # on a CPU only the interpreter could run them: a test tool, never an automatic choice
    automatic_on=frozenset({"cuda"}),
)
