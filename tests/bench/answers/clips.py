"""Clips of small models, sampled by the ComfyUI that `COMFYUI_PATH` names."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from quality import cases, text_clips
from torch import Tensor

MODELS = (*cases.MODELS, *text_clips.MODELS)
CHOSEN_ON = ("tracks", "text")
FRAMES = 5
# samplers of the same kind draw the same noise in every run
_NOISE_SEED = 17


@functools.cache
def host() -> Any:
    """The host, on the CPU.

    Raises:
        SystemExit: there is none.
    """
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        raise SystemExit("COMFYUI_PATH is not set: give it the folder of a ComfyUI checkout")
    support = importlib.import_module("motioncache_pack.tests.support.fake_comfy")
    support.harness.use_real_comfy(path)
    return support.harness.Host()


@dataclass(frozen=True)
class HostClip:
    """A clip in the host: its model's patcher and all that a sampler needs.

    Attributes:
        schedule: noise levels of a number of steps.
        decode: latents as the host gives them to a video `(F, H, W, 3)` in 0..1.
    """

    model: Any
    positive: Any
    negative: Any
    noise: Tensor
    cfg: float
    schedule: Callable[[int], tuple[float, ...]]
    decode: Callable[[Tensor], Tensor]

    def sample(self, model: Any, sampler: str, steps: int) -> Tensor:
        """The decoded video of a patched model."""
        found = host()
        torch.manual_seed(_NOISE_SEED)
        out = found.sample.sample_custom(
            model, self.noise, self.cfg, found.samplers.sampler_object(sampler),
            torch.tensor(self.schedule(steps)), self.positive, self.negative,
            torch.zeros_like(self.noise), disable_pbar=True, seed=_NOISE_SEED,
        )  # fmt: skip
        return self.decode(out)

    def counted(self) -> tuple[Any, list[float]]:
        """The model, and a list that grows by one for every call of its network."""
        model, calls = self.model.clone(), []
        kind = host().patcher_extension.WrappersMP.DIFFUSION_MODEL

        def count(executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Any:
            calls.append(float(timestep.reshape(-1)[0]))
            return executor(x, timestep, *args, **kwargs)

        model.add_wrapper_with_key(kind, "count", count)
        return model, calls


def clip(name: str, seed: int) -> HostClip:
    """The clip of a model with this seed, the same one each time."""
    # before anything of the pack that imports it
    host()
    loaders = importlib.import_module("motioncache_pack.nodes.host.loaders")
    if name in text_clips.MODELS:
        model = text_clips.MODELS[name]
        drawn = text_clips.clip(model, seed, frames=FRAMES)
        return HostClip(
            _model(name, model.shift), [[drawn.positive, {}]], [[drawn.negative, {}]],
            drawn.noise, text_clips.CFG, lambda n: text_clips.simple_sigmas(n, model.shift),
            lambda out: text_clips.decode(loaders.to_model_space(out)),
        )  # fmt: skip
    os.environ[cases.MODEL] = name
    case = cases.case(cases.ORDINARY, seed, FRAMES)
    told = case.inputs
    assert told is not None
    mask, first = told.conditions.split((4, told.noise.shape[1]), dim=1)
    shown = {"concat_latent_image": loaders.from_model_space(first), "concat_mask": 1 - mask[:, :1]}

    def schedule(steps: int) -> tuple[float, ...]:
        return tuple(replace(cases.sampling(), steps=steps).sigmas())

    return HostClip(
        _model(name, told.shift), [[told.positive, dict(shown)]], [[told.negative, dict(shown)]],
        told.noise, told.cfg, schedule, lambda out: case.decode(loaders.to_model_space(out)),
    )  # fmt: skip


@functools.cache
def _model(name: str, shift: float) -> Any:
    checkpoint = importlib.import_module("motioncache_pack.motioncache_core.demo.checkpoint")
    loaders = importlib.import_module("motioncache_pack.nodes.host.loaders")
    path = text_clips.MODELS[name].weights if name in text_clips.MODELS else cases.MODELS[name][0]
    return loaders.load_demo_model(checkpoint.state_dict(path), None, shift)
