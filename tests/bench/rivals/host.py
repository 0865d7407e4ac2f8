"""Sampling a clip in ComfyUI, with whatever was put on its model."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
from dataclasses import dataclass
from typing import Any

import torch
from quality.metrics import psnr
from rivals.clips import HostClip
from rivals.counting import counted
from torch import Tensor


@dataclass(frozen=True)
class Sampled:
    """A run.

    Attributes:
        rows: token rows that went through the network's blocks.
        steps: how many of these had after each step.
    """

    latents: Tensor
    video: Tensor
    rows: int
    steps: tuple[int, ...]


class RivalHost:
    """The ComfyUI that `COMFYUI_PATH` names, on the CPU."""

    def __init__(self) -> None:
        path = os.environ.get("COMFYUI_PATH")
        if not path:
            sys.exit(
                "COMFYUI_PATH is not set: give it the folder of a ComfyUI checkout, and run this "
                "with ComfyUI's python"
            )
        support = importlib.import_module("motioncache_pack.tests.support.fake_comfy")
        try:
            support.harness.use_real_comfy(path)
        except FileNotFoundError as error:
            sys.exit(str(error))
        # packs tell of every run
        logging.getLogger().setLevel(logging.ERROR)
        self._host = support.harness.Host()
        self._loaders = importlib.import_module("motioncache_pack.nodes.host.loaders")
        self._checkpoint = importlib.import_module(
            "motioncache_pack.motioncache_core.demo.checkpoint"
        )
        self.version = str(importlib.import_module("comfyui_version").__version__)

    def model(self, clip: HostClip) -> Any:
        """The clip's model, loaded anew: packs leave things on a network after a run.

        Outside of everything else is a wrapper that hands on a copy of the input, as EasyCache
        writes into it.
        """
        weights = self._checkpoint.state_dict(clip.weights)
        model = self._loaders.load_demo_model(weights, None, clip.shift)
        kind = self._host.patcher_extension.WrappersMP.DIFFUSION_MODEL

        def private(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
            return executor(x.clone(), *args, **kwargs)

        model.add_wrapper_with_key(kind, "private copy", private)
        return model

    def sample(self, model: Any, clip: HostClip, dry: bool = False) -> Sampled:
        """A run with Euler and two prompts, counted at the network's blocks.

        Args:
            dry: the blocks do nothing, as only their calls are of interest.
        """
        shown: dict[str, Any] = {}
        if clip.conditions is not None:
            mask, first = clip.conditions.split((4, clip.noise.shape[1]), dim=1)
            shown = {
                "concat_latent_image": self._loaders.from_model_space(first),
                "concat_mask": 1 - mask[:, :1],
            }
        blocks, after = model.model.diffusion_model.blocks, []
        with counted(blocks, dry) as rows, contextlib.redirect_stdout(io.StringIO()):
            out = self._host.sample.sample_custom(
                model,
                clip.noise,
                clip.cfg,
                self._host.samplers.sampler_object("euler"),
                torch.tensor(clip.sigmas),
                [[clip.positive, dict(shown)]],
                [[clip.negative, dict(shown)]],
                torch.zeros_like(clip.noise),
                callback=lambda *_: after.append(rows.seen),
                disable_pbar=True,
                seed=clip.seed,
            )
        video = clip.decode(self._loaders.to_model_space(out))
        return Sampled(out, video, rows.seen, tuple(after))

    def plain(self, clip: HostClip) -> Sampled:
        """The uncached run."""
        return self.sample(self.model(clip), clip)


def decibels(reference: Sampled, got: Sampled) -> float:
    """PSNR of the decoded videos; NaN where a run has gone wrong."""
    if not torch.isfinite(got.latents).all():
        return float("nan")
    return psnr(reference.video, got.video)
