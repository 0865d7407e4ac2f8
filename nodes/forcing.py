"""Diffusion forcing: the sampler, and a latent to go on from."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..motioncache_core import CacheShapeError, ForcingOptions
from ..motioncache_core.common.field_checks import declared
from .host.forcing_sampler import ForcingSampler
from .types import CATEGORY
from .widgets import widgets


class MotionCacheDiffusionForcing(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheDiffusionForcing",
            display_name="MotionCache Diffusion Forcing",
            category=f"{CATEGORY}/sampling",
            description=(
                "A sampler for models that were trained with a noise level per frame, such as "
                "SkyReels-V2 DF: chunks of frames denoise together, each some steps behind the one "
                "before it. Connect it to SamplerCustom or SamplerCustomAdvanced; with MotionCache "
                "on the model it also reuses tokens."
            ),
            search_aliases=[
                "diffusion forcing", "skyreels", "autoregressive", "long video", "video extension",
                "causal",
            ],
            inputs=widgets(ForcingOptions(), declared(ForcingOptions)),
            outputs=[
                io.Sampler.Output(display_name="SAMPLER", tooltip="For SamplerCustom(Advanced).")
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, **values: Any) -> io.NodeOutput:
        return io.NodeOutput(ForcingSampler(ForcingOptions(**values)))


class MotionCacheExtendVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheExtendVideo",
            display_name="MotionCache Extend Video",
            category=f"{CATEGORY}/sampling",
            description=(
                "Appends empty frames to a video latent and marks the existing ones as given, for "
                "the diffusion-forcing sampler. With one encoded image: image to video."
            ),
            search_aliases=["extend video", "video continuation", "image to video", "prefix"],
            inputs=[
                io.Latent.Input(
                    "samples", tooltip="The video (or one image) to go on from, as latents."
                ),
                io.Int.Input(
                    "frames", default=20, min=1, max=4096, tooltip="Latent frames to append."
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="Given frames, empty frames, and the noise mask that tells them apart.",
                )
            ],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], frames: int) -> io.NodeOutput:
        given = samples["samples"]
        if given.ndim != 5:
            raise CacheShapeError(
                f"the latent has shape {tuple(given.shape)}; a video latent has (batch, channels, "
                "frames, height, width). Encode with a video VAE"
            )
        batch, channels, known, height, width = given.shape
        empty = given.new_zeros(batch, channels, frames, height, width)
        mask = torch.ones(1, 1, known + frames, height, width)
        mask[:, :, :known] = 0
        joined = torch.cat((given, empty), dim=2)
        return io.NodeOutput({**samples, "samples": joined, "noise_mask": mask})
