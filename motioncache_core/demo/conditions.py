"""What the demo model is shown besides noise: the first frame, and tracks of the shapes.

The layout is Wan 2.1's image-to-video input: four mask channels (1 where a frame is given) and the
latents of the given frames, zero elsewhere. Tracks are, as in Wan-Move (arXiv 2512.08765), points of
the first frame shown where they are in later ones; here five dots of each shape in its colour.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import codec, scenes

MASK_CHANNELS = 4
CHANNELS = MASK_CHANNELS + codec.CHANNELS
# a dot in the middle of a shape and four around it, so far from it in radii; a dot's radius in pixels
_POINTS = ((0.0, 0.0), (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))
_REACH, _DOT = 0.45, 1.2


def condition(first: Tensor, frames: int) -> Tensor:
    """The first frame's latents `(16, h, w)` as `(20, frames, h, w)`."""
    out = torch.zeros(CHANNELS, frames, *first.shape[1:], dtype=first.dtype)
    out[:MASK_CHANNELS, 0] = 1
    out[MASK_CHANNELS:, 0] = first
    return out


def add_tracks(given: Tensor, scene: scenes.Scene, take: scenes.Take, shown: Tensor) -> None:
    """Write the shapes' tracks into `given` `(20, F, h, w)`, in the frames where `shown` is True.

    `shown` is bool `(F,)`; frame 0 is never written. A dot is seen where no other shape is in front
    of it, and the latents are those of the dots on grey, which the codec maps to zero.
    """
    frames = given.shape[1]
    video = torch.full((frames, scenes.SIZE, scenes.SIZE, 3), codec.GREY)
    for i, shape in enumerate(scene.shapes):
        alpha = scenes.coverage(scene, take, i, frames)[..., None]
        video = video * (1 - alpha) + codec.GREY * alpha
        dots = _dots(shape, take, i, frames)[..., None]
        video = video * (1 - dots) + scenes.colour(shape) * dots
    tracks = codec.encode(video[None])[0].to(given)
    seen = shown.nonzero().flatten()
    seen = seen[seen > 0]
    given[MASK_CHANNELS:, seen] = tracks[:, seen]


def _dots(shape: scenes.Shape, take: scenes.Take, index: int, frames: int) -> Tensor:
    """Antialiased coverage `(frames, 64, 64)` of a shape's dots."""
    axis = torch.arange(scenes.SIZE) + 0.5
    reach = _REACH * shape.radius()
    dots = torch.zeros(frames, scenes.SIZE, scenes.SIZE)
    for frame in range(frames):
        x, y = take.centre(index, frame)
        for dx, dy in _POINTS:
            across, down = axis - (x + reach * dx), axis - (y + reach * dy)
            distance = (across[None, :] ** 2 + down[:, None] ** 2).sqrt() - _DOT
            dots[frame] = torch.maximum(dots[frame], torch.sigmoid(-distance / 0.4))
    return dots
