"""Clips of the small models, sampled without a host."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from motioncache_pack import kernels
from motioncache_pack.motioncache_core import MotionCacheSettings, RunFacts, Trace
from motioncache_pack.motioncache_core.demo import checkpoint
from motioncache_pack.motioncache_core.demo.sampler import SampleOptions, cached_sample
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from quality import cases, text_clips
from torch import Tensor

MODELS = (*cases.MODELS, *text_clips.MODELS)
# settings are chosen on these
CHOSEN_ON = ("tracks", "text")
FRAMES, STEPS = 5, 24


@dataclass(frozen=True)
class Levels(SampleOptions):
    """Sampling at given noise levels."""

    given: tuple[float, ...] = ()

    def sigmas(self) -> list[float]:
        return list(self.given)


@dataclass(frozen=True)
class TokenClip:
    """A clip and all that a sampler of it needs.

    Attributes:
        sigmas: noise levels down to 0, one more than steps.
        decode: latents to a video `(F, H, W, 3)` in 0..1.
    """

    model: DemoWan
    positive: Tensor
    negative: Tensor
    noise: Tensor
    conditions: Tensor | None
    sigmas: tuple[float, ...]
    cfg: float
    decode: Callable[[Tensor], Tensor]

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along each axis."""
        f, h, w = self.noise.shape[2:]
        return f, h // 2, w // 2

    def by_product(self, settings: MotionCacheSettings) -> tuple[Tensor, Trace]:
        """Latents as the product samples them, its evaluations where the schedule puts them: those
        of the study are there too."""
        options = Levels(steps=len(self.sigmas) - 1, cfg=self.cfg, given=self.sigmas)
        facts = RunFacts(sigmas=self.sigmas, shared=True)
        return cached_sample(
            self.model, self.positive, self.negative, self.noise, options, settings, kernels, facts,
            conditions=self.conditions,
        )  # fmt: skip


def clip(name: str, seed: int) -> TokenClip:
    """The clip of a model with this seed, the same one each time."""
    if name in text_clips.MODELS:
        text = text_clips.MODELS[name]
        drawn = text_clips.clip(text, seed, STEPS, FRAMES)
        return TokenClip(
            checkpoint.load(text.weights), drawn.positive, drawn.negative, drawn.noise, None,
            drawn.sigmas, text_clips.CFG, text_clips.decode,
        )  # fmt: skip
    os.environ[cases.MODEL] = name
    os.environ[cases.STEPS] = str(STEPS)
    case = cases.case(cases.ORDINARY, seed, FRAMES)
    told = case.inputs
    assert told is not None
    return TokenClip(
        checkpoint.load(cases.MODELS[name][0]), told.positive, told.negative, told.noise,
        told.conditions, told.sigmas, told.cfg, case.decode,
    )  # fmt: skip
