"""MAGI-1's learned rows of text: quality, style and motion, and how much of the video is left.

The table is the published `special_tokens.npz` (Sand AI, Apache-2.0), as it is or as safetensors
with the same three names.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...common.errors import SettingsError, UnsupportedModelError

FILE_NAMES = ("special_tokens.npz", "special_tokens.safetensors")
WHERE = (
    "Download special_tokens.npz (3.3 MB) from the folder example/assets of the repository "
    "SandAI-org/MAGI-1 on GitHub and put it into ComfyUI's models/text_encoders folder"
)
# where a conditioning keeps its `duration_rows`
DURATIONS = "magi_durations"
# rows of a caption with everything in front of it
MOST_ROWS = 800

STYLES = ("none", "2d", "3d")
MOTIONS = ("none", "static", "dynamic")

_TABLE = "other_tokens"
_HIGH_QUALITY, _STATIC, _DYNAMIC = 1, 2, 3
_DURATION_ROWS = slice(7, 15)
_STYLE_ROWS = {"3d": 15, "2d": 16}
_LEAST_ROWS = 17


def prefix_rows(table: Tensor, style: str, motion: str, high_quality: bool) -> Tensor:
    """The rows of the choices `(n, C)`, in the published order: style, quality, motion. They stand
    between a chunk's duration and the caption.

    Args:
        table: of `read_table`.

    Raises:
        SettingsError: a choice is none of `STYLES` or `MOTIONS`.
    """
    for name, value, allowed in (("style", style, STYLES), ("motion", motion, MOTIONS)):
        if value not in allowed:
            raise SettingsError(f"{name} is {value!r}; allowed are {', '.join(allowed)}")
    chosen = [_STYLE_ROWS[style]] if style in _STYLE_ROWS else []
    chosen += [_HIGH_QUALITY] if high_quality else []
    chosen += {"static": [_STATIC], "dynamic": [_DYNAMIC]}.get(motion, [])
    return table[chosen]


def duration_rows(table: Tensor) -> Tensor:
    """`(8, C)`: row i says that i more chunks follow, the last that so many or more do."""
    return table[_DURATION_ROWS]


def read_table(path: Path) -> Tensor:
    """The table `(rows, C)` of a file, in fp32, rounded to fp16 as the published code does.

    Raises:
        UnsupportedModelError: the file is not MAGI-1's table.
    """
    try:
        table = _read(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, SafetensorError) as error:
        raise UnsupportedModelError(
            f"{path.name} is not MAGI-1's table of special tokens ({error}). {WHERE}"
        ) from error
    if table.ndim != 2 or len(table) < _LEAST_ROWS or not table.is_floating_point():
        raise UnsupportedModelError(
            f"{_TABLE} of {path.name} has shape {tuple(table.shape)} ({table.dtype}); MAGI-1's has "
            f"{_LEAST_ROWS} rows of floats or more. {WHERE}"
        )
    return table.half().float()


def _read(path: Path) -> Tensor:
    if path.suffix == ".safetensors":
        return load_file(path)[_TABLE]
    with np.load(path, allow_pickle=False) as arrays:
        return torch.from_numpy(arrays[_TABLE])
