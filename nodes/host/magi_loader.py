"""MAGI-1's checkpoints as ComfyUI's models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...motioncache_core import SettingsError
from ...motioncache_core.models.magi1.checkpoint import (
    check_complete,
    dequantise,
    describe,
    is_distilled,
    is_quantised,
)
from ...motioncache_core.models.magi1.config import MagiConfig
from .magi_files import read_checkpoint
from .magi_model import build_magi

# how the large weights are kept; None leaves it to the host
WEIGHT_DTYPES: dict[str, torch.dtype | None] = {
    "default": None,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
FAST, PUBLISHED = "fast", "published"
PRECISIONS = (FAST, PUBLISHED)


def load_magi(name: str, kind: str, weight_dtype: str, precision: str) -> tuple[Any, str]:
    """A file of the `diffusion_models` folders as a model, and what it is in words.

    Raises:
        SettingsError: a choice is unknown, or nothing tells base from distilled.
        UnsupportedModelError: the file is not MAGI-1, or not all of it.
    """
    distilled = is_distilled(name, kind)
    told = ""

    def read() -> dict[str, Tensor]:
        nonlocal told
        stored = read_checkpoint(name)
        tensors = dequantise(stored)
        config = MagiConfig.from_tensors(tensors)
        told = describe(config, distilled, is_quantised(stored))
        return tensors

    model = magi_model(read, distilled, weight_dtype, precision)
    return model, told


def magi_model(
    read: Callable[[], dict[str, Tensor]],
    distilled: bool,
    weight_dtype: str = "default",
    precision: str = FAST,
) -> Any:
    """A model of the tensors that `read` gives, which the host may read again for other devices.

    Raises:
        SettingsError: a choice is unknown.
        UnsupportedModelError: the tensors are not MAGI-1's, or not all of them.
    """
    for what, value, allowed in (
        ("weight_dtype", weight_dtype, tuple(WEIGHT_DTYPES)),
        ("precision", precision, PRECISIONS),
    ):
        if value not in allowed:
            raise SettingsError(f"{what} is {value!r}; allowed are {', '.join(allowed)}")

    def load(disable_dynamic: bool = False) -> Any:
        tensors = read()
        check_complete(MagiConfig.from_tensors(tensors), tensors)
        patcher = build_magi(
            tensors,
            distilled,
            published=precision == PUBLISHED,
            weight_dtype=WEIGHT_DTYPES[weight_dtype],
            disable_dynamic=disable_dynamic,
        )
        # compiling, hooks and several GPUs load the file again, and need the same tensors
        patcher.cached_patcher_init = (load, ())
        return patcher

    return load()
