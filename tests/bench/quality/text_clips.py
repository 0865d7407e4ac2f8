"""The models that draw from text alone, and the clips that are sampled with them.

Settings may be chosen on `text`; nothing is chosen on the others, which differ from it in seed,
size, pan and noise schedule. `tests/bench/models/train_text.py` made all of them, and
`demo.checkpoint.load(MODELS[name].weights)` loads one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from common import ROOT
from motioncache_pack.motioncache_core.demo import clips, codec, scenes
from quality.text_scenes import Camera, PannedScene, draw
from torch import Tensor

# of the longest clips that the models were trained on
FRAMES = 9
CFG = 3.0
# noise levels of the table that the host's schedules pick from
_LEVELS = 1000


@dataclass(frozen=True)
class TextModel:
    """How a model was trained, and the shift of the noise levels that it is sampled at.

    The host takes `dim // 128` to be the number of its heads.
    """

    name: str
    seed: int
    dim: int
    ffn_dim: int
    layers: int
    camera: Camera
    shift: float

    @property
    def weights(self) -> Path:
        return ROOT / "tests" / "bench" / "models" / f"{self.name}.safetensors"


MODELS = {
    model.name: model
    for model in (
        TextModel("text", 11, 160, 320, 4, Camera(False, (0.7, 1.5)), 8.0),
        TextModel("text_confirmation", 29, 128, 384, 5, Camera(True, (1.2, 2.2)), 3.0),
        TextModel("text_small", 41, 128, 256, 4, Camera(False, (1.0, 1.9)), 5.0),
    )
}


@dataclass(frozen=True)
class TextClip:
    """What one clip is sampled from, with guidance `CFG`. Latents are the network's own.

    Attributes:
        positive, negative: text states `(1, 4, 4096)` of the scene and of the empty prompt.
            The network knows relative places only, so that it does not follow the cells.
        noise: `(1, 16, F, 16, 16)`.
        sigmas: noise levels down to 0, one more than steps.
        rendered: one take of the scene, `(F, 64, 64, 3)` in 0..1: the text tells neither exact
            places nor speeds, so the model draws another one.
    """

    scene: PannedScene
    positive: Tensor
    negative: Tensor
    noise: Tensor
    sigmas: tuple[float, ...]
    rendered: Tensor


def clip(model: TextModel, seed: int, steps: int = 24, frames: int = FRAMES) -> TextClip:
    """A clip of a random scene, the same one for the same arguments."""
    scene = draw(frames, model.camera, torch.Generator().manual_seed(3_000_000 + seed))
    shape = (1, codec.CHANNELS, frames, clips.SIDE, clips.SIDE)
    return TextClip(
        scene=scene,
        positive=scene.text()[None],
        negative=scenes.text_states(None)[None],
        noise=torch.randn(shape, generator=torch.Generator().manual_seed(4_000_000 + seed)),
        sigmas=simple_sigmas(steps, model.shift),
        rendered=scene.render(frames),
    )


def decode(latents: Tensor) -> Tensor:
    """Latents `(1, 16, F, 16, 16)` to a video `(F, 64, 64, 3)` in 0..1."""
    return codec.decode(latents)[0]


def simple_sigmas(steps: int, shift: float) -> tuple[float, ...]:
    """The noise levels of the host's `simple` schedule, down to 0.

    It picks every so many of a table's 1000 levels, so that they are no even steps where `steps`
    does not divide 1000.
    """
    us = [(_LEVELS - int(i * (_LEVELS / steps))) / _LEVELS for i in range(steps)]
    return (*(shift * u / (1 + (shift - 1) * u) for u in us), 0.0)
