"""What the demo model is shown besides noise: the first frame, and tracks of the shapes.

The layout is Wan 2.1's image-to-video input: four mask channels (1 where a frame is given) and the
latents of the given frames, zero elsewhere. Tracks follow Wan-Move (arXiv 2512.08765): what is at a
point of the first frame is put where that point is in later frames, here the shape's colour in the
one latent cell under its centre.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import codec, scenes

MASK_CHANNELS = 4
CHANNELS = MASK_CHANNELS + codec.CHANNELS


def condition(first: Tensor, frames: int) -> Tensor:
    """The first frame's latents `(16, h, w)` as `(20, frames, h, w)`."""
    out = torch.zeros(CHANNELS, frames, *first.shape[1:], dtype=first.dtype)
    out[:MASK_CHANNELS, 0] = 1
    out[MASK_CHANNELS:, 0] = first
    return out


def add_tracks(given: Tensor, scene: scenes.Scene, take: scenes.Take, shown: Tensor) -> None:
    """Write the shapes' tracks into `given` `(20, F, h, w)`, in the frames where `shown` is True.

    `shown` is bool `(F,)`; frame 0 is never written, nor is a centre outside the picture.
    """
    _, frames, height, width = given.shape
    for i, shape in enumerate(scene.shapes):
        patch = scenes.colour(shape).expand(1, 1, codec.BLOCK, codec.BLOCK, 3)
        feature = codec.encode(patch)[0, :, 0, 0, 0]
        for frame in range(1, frames):
            x, y = (int(p // codec.BLOCK) for p in take.centre(i, frame))
            if shown[frame] and 0 <= x < width and 0 <= y < height:
                given[MASK_CHANNELS:, frame, y, x] = feature
