"""The clips that the quality bench samples. The only one of its files that knows the model, its
scenes and how it is sampled."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import ROOT
from motioncache_pack import kernels
from motioncache_pack.motioncache_core import (
    ForcingOptions,
    ModelCall,
    MotionCacheSettings,
    RunFacts,
    Trace,
)
from motioncache_pack.motioncache_core.demo import checkpoint, clips, codec, scenes
from motioncache_pack.motioncache_core.demo.forcing import cached_forcing_sample, forcing_sample
from motioncache_pack.motioncache_core.demo.sampler import SampleOptions, cached_sample, sample
from motioncache_pack.motioncache_core.demo.training.batches import draw_scene
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from quality import cell_tracks
from torch import Tensor

ORDINARY, FORCING, BIDIRECTIONAL = "ordinary", "forcing", "forcing, bidirectional"
MODES = (ORDINARY, FORCING, BIDIRECTIONAL)
FRAMES = {ORDINARY: 9, FORCING: 12, BIDIRECTIONAL: 12}
_FOLDER = ROOT / "tests" / "bench" / "models"
# settings were chosen on the first; none was on the second, of other seed, width and depth, nor on
# the shipped one, which came later
MODELS = {
    "tracks": (cell_tracks.WEIGHTS, cell_tracks.WEIGHTS.with_suffix(".profile.json")),
    "confirmation": (_FOLDER / "confirmation.safetensors", _FOLDER / "confirmation.profile.json"),
    "demo": (checkpoint.WEIGHTS, checkpoint.PROFILE),
}
# names one of these, as the bench's processes have to know it too
MODEL = "MOTIONCACHE_BENCH_MODEL"
# those that the presets were tuned on, unless this variable says how many
USUAL_STEPS, STEPS = 24, "MOTIONCACHE_BENCH_STEPS"
ASYNCHRONOUS = ForcingOptions(chunk_frames=3, chunk_delay=5)

Cached = Callable[..., tuple[Tensor, Trace]]


@dataclass(frozen=True)
class Inputs:
    """What another host needs to sample the same clip. Latents are the network's own."""

    shift: float
    cfg: float
    positive: Tensor
    negative: Tensor
    noise: Tensor
    conditions: Tensor
    sigmas: tuple[float, ...]


@dataclass(frozen=True)
class Case:
    """A clip to sample.

    Attributes:
        facts: what its latents depend on besides mode, seed and model.
        unit: mean distance that a step adds, which thresholds are multiples of.
        uncached: samples it without reuse.
        cached: samples it with these settings and ops.
        decode: latents to a video `(F, H, W, 3)` in 0..1.
        rendered: the clip as its scene is drawn, which the model was trained to draw.
        inputs: None where no other host samples this way.
    """

    mode: str
    name: str
    seed: int
    facts: dict[str, Any]
    unit: float
    uncached: Callable[[], Tensor]
    cached: Cached
    decode: Callable[[Tensor], Tensor]
    rendered: Tensor
    inputs: Inputs | None


def case(mode: str, seed: int, frames: int = 0) -> Case:
    """A clip of a random scene, of so many latent frames or as many as its mode usually has."""
    frames, options = frames or FRAMES[mode], sampling()
    clip = _clip(frames, seed)
    noise, sigmas = clip.noise(2_000_000 + seed), tuple(options.sigmas())
    forcing, inputs = None, None
    if mode == ORDINARY:
        inputs = Inputs(checkpoint.SHIFT, options.cfg, *clip.text, noise, clip.conditions, sigmas)
        uncached, cached = ordinary(clip, noise)
    else:
        attention = "block_causal" if mode == FORCING else "bidirectional"
        forcing = replace(ASYNCHRONOUS, attention=attention)
        uncached, cached = _forcing(clip, noise, forcing)
    return Case(
        mode=mode,
        name=scenes.describe(clip.scene),
        seed=seed,
        facts={"sampling": repr(options), "forcing": repr(forcing), "frames": frames},
        unit=_unit(sigmas),
        uncached=uncached,
        cached=cached,
        decode=lambda latents: codec.decode(latents)[0],
        rendered=clip.video,
        inputs=inputs,
    )


def _model_name() -> str:
    return os.environ.get(MODEL, "tracks")


def _clip(frames: int, seed: int) -> clips.Clip:
    """A random scene as the model was trained to see it."""
    rng = torch.Generator().manual_seed(1_000_000 + seed)
    if _model_name() == "demo":
        return clips.clip(draw_scene(frames, rng), frames, take=seed)
    return cell_tracks.clip(scenes.sample_scene(frames, rng), frames, take=seed)


def sampling() -> SampleOptions:
    """How every clip is sampled."""
    steps = int(os.environ.get(STEPS, USUAL_STEPS))
    return SampleOptions(steps=steps, shift=checkpoint.SHIFT)


def model_hash() -> str:
    """Names the weights and the profile that distances come from."""
    weights, profile = files()
    return hashlib.sha256(weights.read_bytes() + profile.read_bytes()).hexdigest()[:16]


def files() -> tuple[Path, Path]:
    """Weights and profile of the model that is measured."""
    weights, profile = MODELS[_model_name()]
    return weights, profile


@functools.cache
def _model() -> DemoWan:
    return checkpoint.load(files()[0])


def _facts() -> RunFacts:
    return RunFacts(sigmas=sampling().sigmas(), profile=checkpoint.profile(files()[1]))


def _unit(sigmas: tuple[float, ...]) -> float:
    profile = checkpoint.profile(files()[1])
    # the last step ends the run: nothing is decided after it
    first, last = np.interp((sigmas[0], sigmas[-2]), profile.sigmas, profile.travelled)
    return float(first - last) / (len(sigmas) - 2)


def ordinary(clip: clips.Clip, noise: Tensor) -> tuple[Callable[[], Tensor], Cached]:
    """How a clip is sampled in one piece, without reuse and with it."""
    shown, options = {"conditions": clip.conditions}, sampling()

    def uncached() -> Tensor:
        return sample(_model(), *clip.text, noise, options, **shown)

    def cached(settings: MotionCacheSettings, ops: Any = kernels) -> tuple[Tensor, Trace]:
        return cached_sample(_model(), *clip.text, noise, options, settings, ops, _facts(), **shown)

    return uncached, cached


class _Bare:
    """Carries out model calls without the engine."""

    def evaluate(self, call: ModelCall) -> Tensor:
        return call.run(dict(call.options))


def _forcing(
    clip: clips.Clip, noise: Tensor, options: ForcingOptions
) -> tuple[Callable[[], Tensor], Cached]:
    usual = sampling()
    shown: dict[str, Any] = {"cfg": usual.cfg, "conditions": clip.conditions}
    told = (*clip.text, noise, usual.sigmas(), options)

    def cached(settings: MotionCacheSettings, ops: Any = kernels) -> tuple[Tensor, Trace]:
        return cached_forcing_sample(_model(), *told, settings, ops, _facts(), **shown)

    def uncached() -> Tensor:
        if options.attention == "bidirectional":
            return forcing_sample(_model(), *told, _Bare(), **shown)
        # block-causal attention is the engine's work even where nothing is reused
        return cached(MotionCacheSettings(reuse_threshold=0.0))[0]

    return uncached, cached
