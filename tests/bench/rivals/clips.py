"""The clips that rivals are measured on, as any host can sample them."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from common import ROOT
from quality import cases
from torch import Tensor

TEXT_MODELS = ROOT / "tests" / "bench" / "models"


@dataclass(frozen=True)
class HostClip:
    """What a clip is sampled from. Latents are the network's own.

    Attributes:
        conditions: mask and first frame that are shown beside the noise, `(1, 20, F, 16, 16)`;
            None for a model that is given text alone.
        decode: latents to a video `(F, H, W, 3)` in 0..1.
    """

    weights: Path
    seed: int
    shift: float
    cfg: float
    positive: Tensor
    negative: Tensor
    noise: Tensor
    sigmas: tuple[float, ...]
    conditions: Tensor | None
    decode: Callable[[Tensor], Tensor]

    @property
    def from_image(self) -> bool:
        """Whether the model is one of image to video."""
        return self.conditions is not None

    def first_frame(self) -> HostClip:
        """The clip cut to one latent frame."""
        shown = None if self.conditions is None else self.conditions[:, :, :1]
        return replace(self, noise=self.noise[:, :, :1], conditions=shown)


def models(folder: Path = TEXT_MODELS) -> list[str]:
    """The models that are here: the two of the quality bench, and those of text that have been
    trained."""
    text = sorted(p.stem for p in folder.glob("text*.safetensors"))
    return [*cases.MODELS, *text]


def clip(model: str, seed: int, steps: int, frames: int) -> HostClip:
    """A clip of a random scene, the same one for the same model, seed and frames."""
    if model in cases.MODELS:
        return _with_image(model, seed, steps, frames)
    return _from_text(importlib.import_module("quality.text_clips"), model, seed, steps, frames)


def _with_image(model: str, seed: int, steps: int, frames: int) -> HostClip:
    with mock.patch.dict(os.environ, {cases.MODEL: model, cases.STEPS: str(steps)}):
        case, weights = cases.case(cases.ORDINARY, seed, frames), cases.files()[0]
    inputs = case.inputs
    if inputs is None:
        raise ValueError(f"clips of mode {case.mode!r} cannot be sampled by ComfyUI's nodes")
    return HostClip(
        weights=weights,
        seed=seed,
        shift=inputs.shift,
        cfg=inputs.cfg,
        positive=inputs.positive,
        negative=inputs.negative,
        noise=inputs.noise,
        sigmas=inputs.sigmas,
        conditions=inputs.conditions,
        decode=case.decode,
    )


def _from_text(made: Any, model: str, seed: int, steps: int, frames: int) -> HostClip:
    if model not in made.MODELS:
        raise ValueError(
            f"no model {model!r}; there are {', '.join((*cases.MODELS, *made.MODELS))}"
        )
    known = made.MODELS[model]
    drawn = made.clip(known, seed, steps=steps, frames=frames)
    return HostClip(
        weights=known.weights,
        seed=seed,
        shift=known.shift,
        cfg=made.CFG,
        positive=drawn.positive,
        negative=drawn.negative,
        noise=drawn.noise,
        sigmas=drawn.sigmas,
        conditions=None,
        decode=made.decode,
    )
