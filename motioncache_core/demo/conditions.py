"""What the demo model is shown besides noise: the first frame, and a control video of the shapes.

The layout is Wan 2.1's image-to-video input: four mask channels (1 where a frame is given) and the
latents of the given frames, zero elsewhere. The control video is in the frames that are not given,
as in Wan's Fun-Control models: each shape in its colour, on grey.
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


def add_control(given: Tensor, scene: scenes.Scene, take: scenes.Take, shown: Tensor) -> None:
    """Write the control video into `given` `(20, F, h, w)`, in the frames where `shown` is True.

    `shown` is bool `(F,)`; frame 0 is never written. The control video is the shapes on grey, which
    the codec maps to zero.
    """
    frames = given.shape[1]
    video = torch.full((frames, scenes.SIZE, scenes.SIZE, 3), codec.GREY)
    video = scenes.draw_shapes(video, scene, take)
    latents = codec.encode(video[None])[0].to(given)
    later = shown.nonzero().flatten()
    later = later[later > 0]
    given[MASK_CHANNELS:, later] = latents[:, later]
