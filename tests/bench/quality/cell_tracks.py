"""Tracks as the bench's two models with a first frame were trained to see them: cell by cell.

What is at a point of the first frame is put where that point is in later frames (Wan-Move, arXiv
2512.08765), here for nine points of each shape, in the one latent cell that a point is in. The
shipped model is shown dots at their exact places instead.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import torch
from motioncache_pack.motioncache_core.demo import clips, codec, conditions, scenes
from torch import Tensor

# the model that settings were chosen on; its profile stands beside it
WEIGHTS = Path(__file__).parents[1] / "models" / "tracks.safetensors"
# how far a shape's points are from its centre, in radii
_REACH = 0.8


def clip(scene: scenes.Scene, frames: int, take: int) -> clips.Clip:
    """As `clips.clip`, with tracks cell by cell in every frame."""
    made = clips.clip(scene, frames, take)
    first = codec.encode(made.video[None])[0, :, 0]
    shown = conditions.condition(first, frames)
    _add_tracks(shown, scene, made.take)
    return replace(made, conditions=shown[None])


def _add_tracks(given: Tensor, scene: scenes.Scene, take: scenes.Take) -> None:
    """Write the shapes' tracks into `given` `(20, F, h, w)`, in all frames but the first.

    A point outside the picture is left out; a point that is hidden in frame 0 has no track but for
    the centre, which has the shape's colour.
    """
    frames, height, width = given.shape[1:]

    def cell(x: float, y: float) -> tuple[int, int] | None:
        place = math.floor(y / codec.BLOCK), math.floor(x / codec.BLOCK)
        return place if 0 <= place[0] < height and 0 <= place[1] < width else None

    for i, shape in enumerate(scene.shapes):
        features = {(0.0, 0.0): _flat(shape)}
        before = _hidden(scene, take, i)
        reach = _REACH * shape.radius()
        x, y = take.centre(i, 0)
        for dx, dy in itertools.product((-reach, 0.0, reach), repeat=2):
            place = cell(x + dx, y + dy)
            if (dx, dy) in features or place is None or before[int(y + dy), int(x + dx)]:
                continue
            row, column = place
            features[dx, dy] = given[conditions.MASK_CHANNELS :, 0, row, column].clone()
        for frame in range(1, frames):
            x, y = take.centre(i, frame)
            for (dx, dy), feature in features.items():
                place = cell(x + dx, y + dy)
                if place is not None:
                    row, column = place
                    given[conditions.MASK_CHANNELS :, frame, row, column] = feature


def _hidden(scene: scenes.Scene, take: scenes.Take, index: int) -> Tensor:
    """Where other shapes are in front of one in frame 0, `(64, 64)` bool."""
    mask = torch.zeros(scenes.SIZE, scenes.SIZE, dtype=torch.bool)
    for other in range(index + 1, len(scene.shapes)):
        mask |= scenes.coverage(scene, take, other, 1)[0] > 0.5
    return mask


def _flat(shape: scenes.Shape) -> Tensor:
    """A latent of the shape's colour, `(16,)`."""
    patch = scenes.colour(shape).expand(1, 1, codec.BLOCK, codec.BLOCK, 3)
    return codec.encode(patch)[0, :, 0, 0, 0]
