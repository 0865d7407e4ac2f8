"""Scenes of the models that draw from text alone: two shapes, and a camera that pans over them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from motioncache_pack.motioncache_core.demo import scenes
from torch import Tensor

# shapes end at least so far from the picture's border, in pixels
_INSIDE = 2
_LARGE = scenes.SIZES.index("large")
_GROUNDS = (scenes.TEXTURES.index("plain"), scenes.TEXTURES.index("stripes"))


@dataclass(frozen=True)
class Camera:
    """How it pans: along the picture's rows or down its columns, and pixels per frame."""

    vertical: bool
    speed: tuple[float, float]


@dataclass(frozen=True)
class PannedScene:
    """A scene as one take of it runs: its ground slides, and its shapes slide along with it."""

    scene: scenes.Scene
    take: scenes.Take
    camera: Camera

    def text(self) -> Tensor:
        """States `(4, 4096)`; the classes of a pan say which of its two ways the camera goes."""
        return scenes.text_states(self.scene)

    def render(self, frames: int) -> Tensor:
        """RGB `(frames, 64, 64, 3)` in 0..1."""
        video = scenes.background(self.scene, self.take, frames)
        if self.camera.vertical:
            video = video.transpose(1, 2)
        for i, shape in enumerate(self.scene.shapes):
            alpha = scenes.coverage(self.scene, self.take, i, frames)[..., None]
            video = video * (1 - alpha) + scenes.colour(shape) * alpha
        return video


def draw(frames: int, camera: Camera, rng: torch.Generator) -> PannedScene:
    """A random scene whose two shapes stay in the picture for `frames` frames.

    Both are large and the ground is plain or striped: the network has one head a block and no
    frame to start from, so that smaller things take it longer to learn.
    """
    while True:
        scene = scenes.sample_scene(frames, rng)
        if len(scene.shapes) != 2:
            continue
        pan, striped = torch.randint(2, (2,), generator=rng).tolist()
        scene = replace(
            scene,
            shapes=tuple(replace(shape, size=_LARGE) for shape in scene.shapes),
            texture=_GROUNDS[striped],
            pan=1 + pan,
        )
        take = _panned(scene, scenes.draw_take(scene, rng), camera, rng)
        ends = (p for i in range(2) for p in take.centre(i, frames - 1))
        if all(_INSIDE <= p <= scenes.SIZE - _INSIDE for p in ends):
            return PannedScene(scene, take, camera)


def _panned(
    scene: scenes.Scene, take: scenes.Take, camera: Camera, rng: torch.Generator
) -> scenes.Take:
    low, high = camera.speed
    speed = low + (high - low) * float(torch.rand((), generator=rng))
    pan = speed if scene.pan == 1 else -speed
    dx, dy = (0.0, pan) if camera.vertical else (pan, 0.0)
    # the ground's coordinates grow, so that what is in the picture goes the other way
    velocities = tuple((x - dx, y - dy) for x, y in take.velocities)
    return replace(take, pan=pan, velocities=velocities)
