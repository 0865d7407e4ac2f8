"""Colour maps for pictures of a trace."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..common.errors import MotionCacheError

Floats = npt.NDArray[np.float32]


# anchors of perceptually uniform maps, interpolated linearly in between
_ANCHORS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "magma": (
        (0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122),
        (229, 80, 100), (251, 135, 97), (254, 194, 135), (252, 253, 191),
    ),
    "viridis": (
        (68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141),
        (39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37),
    ),
    "gray": ((0, 0, 0), (255, 255, 255)),
}  # fmt: skip


COLORMAPS = tuple(_ANCHORS)


def anchors(colormap: str) -> list[tuple[int, int, int]]:
    """RGB in 0..255 at equal distances from low to high; linear in between.

    Raises:
        MotionCacheError: no such colormap.
    """
    if colormap not in _ANCHORS:
        allowed = ", ".join(map(repr, COLORMAPS))
        raise MotionCacheError(f"colormap is {colormap!r}; allowed are {allowed}")
    return list(_ANCHORS[colormap])


def colourise(values: Floats, colormap: str) -> Floats:
    """Values in 0..1 to RGB in 0..1, shape `(..., 3)`."""
    table = np.asarray(anchors(colormap), dtype=np.float32) / 255
    at = np.linspace(0, 1, len(table))
    channels = [np.interp(values, at, table[:, i]) for i in range(3)]
    rgb: Floats = np.stack(channels, axis=-1).astype(np.float32)
    return rgb


def colour_at(value: float, colormap: str) -> tuple[float, float, float]:
    """RGB in 0..1 of a value in 0..1."""
    red, green, blue = colourise(np.asarray(value, dtype=np.float32), colormap).tolist()
    return red, green, blue
