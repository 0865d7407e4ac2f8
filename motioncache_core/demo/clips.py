"""What a clip of the demo model starts from: a scene, its take, text, conditions, noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import codec, conditions, scenes

SIDE = scenes.SIZE // codec.BLOCK


@dataclass(frozen=True)
class Clip:
    """A scene as one take of it runs.

    Attributes:
        video: as rendered, `(F, 64, 64, 3)` in 0..1; the model draws its own.
        text: states of the scene and of the empty prompt, `(1, 4, 4096)` each.
        conditions: first frame and control video, `(1, 20, F, 16, 16)`.
    """

    scene: scenes.Scene
    take: scenes.Take
    video: Tensor
    text: tuple[Tensor, Tensor]
    conditions: Tensor

    @property
    def frames(self) -> int:
        """Latent frames."""
        return len(self.video)

    def noise(self, seed: int) -> Tensor:
        """`(1, 16, F, 16, 16)`."""
        rng = torch.Generator().manual_seed(seed)
        return torch.randn(1, codec.CHANNELS, self.frames, SIDE, SIDE, generator=rng)

    def moving_mask(self) -> Tensor:
        """Where a shape moves, `(F, 64, 64)` bool."""
        return scenes.moving_mask(self.scene, self.take, self.frames)


def clip(scene: scenes.Scene, frames: int, take: int = 0) -> Clip:
    """A clip of `frames` latent frames; `take` seeds what the scene's classes leave open.

    The control video is shown in every later frame.
    """
    run = scenes.draw_take(scene, torch.Generator().manual_seed(take))
    video = scenes.render(scene, run, frames)
    shown = conditions.condition(codec.encode(video[None])[0, :, 0], frames)
    conditions.add_control(shown, scene, run, torch.ones(frames, dtype=torch.bool))
    text = (scenes.text_states(scene)[None], scenes.text_states(None)[None])
    return Clip(scene, run, video, text, shown[None])
