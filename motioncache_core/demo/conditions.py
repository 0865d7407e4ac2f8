"""What the demo model is shown besides noise: the first frame, and tracks of the shapes.

The layout is Wan 2.1's image-to-video input: four mask channels (1 where a frame is given) and the
latents of the given frames, zero elsewhere. Tracks follow Wan-Move (arXiv 2512.08765): what is at a
point of the first frame is put where that point is in later frames, here for nine points of each
shape, in the one latent cell that a point is in.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from . import codec, scenes

MASK_CHANNELS = 4
CHANNELS = MASK_CHANNELS + codec.CHANNELS
# how far a shape's points are from its centre, in radii
_REACH = 0.8


def condition(first: Tensor, frames: int) -> Tensor:
    """The first frame's latents `(16, h, w)` as `(20, frames, h, w)`."""
    out = torch.zeros(CHANNELS, frames, *first.shape[1:], dtype=first.dtype)
    out[:MASK_CHANNELS, 0] = 1
    out[MASK_CHANNELS:, 0] = first
    return out


def add_tracks(given: Tensor, scene: scenes.Scene, take: scenes.Take, shown: Tensor) -> None:
    """Write the shapes' tracks into `given` `(20, F, h, w)`, in the frames where `shown` is True.

    `shown` is bool `(F,)`; frame 0 is never written, nor is a point outside the picture. A shape
    has nine points, its centre among them; one that is hidden in frame 0 has no track but for the
    centre, which has the shape's colour.
    """
    height, width = given.shape[2:]

    def cell(x: float, y: float) -> tuple[int, int] | None:
        place = math.floor(y / codec.BLOCK), math.floor(x / codec.BLOCK)
        return place if 0 <= place[0] < height and 0 <= place[1] < width else None

    for i, shape in enumerate(scene.shapes):
        features = {(0.0, 0.0): _flat(shape)}
        before = scenes.hidden(scene, take, i)
        reach = _REACH * shape.radius()
        x, y = take.centre(i, 0)
        for dx, dy in itertools.product((-reach, 0.0, reach), repeat=2):
            place = cell(x + dx, y + dy)
            if (dx, dy) in features or place is None or before[int(y + dy), int(x + dx)]:
                continue
            row, column = place
            features[dx, dy] = given[MASK_CHANNELS:, 0, row, column].clone()
        for frame in shown.nonzero().flatten().tolist():
            x, y = take.centre(i, frame)
            for (dx, dy), feature in features.items():
                place = cell(x + dx, y + dy)
                if frame > 0 and place is not None:
                    row, column = place
                    given[MASK_CHANNELS:, frame, row, column] = feature


def _flat(shape: scenes.Shape) -> Tensor:
    """A latent of the shape's colour, `(16,)`."""
    patch = scenes.colour(shape).expand(1, 1, codec.BLOCK, codec.BLOCK, 3)
    return codec.encode(patch)[0, :, 0, 0, 0]
