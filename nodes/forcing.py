"""Diffusion forcing: the sampler, and a latent to go on from."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..motioncache_core import CacheShapeError, ForcingOptions
from ..motioncache_core.sampling.options import FORCING_CHOICES, FORCING_RANGES
from .host.forcing_sampler import ForcingSampler
from .types import CATEGORY

_DEFAULTS = ForcingOptions()


def _whole(name: str, tooltip: str, advanced: bool = False) -> io.Int.Input:
    low, high = (int(limit) for limit in FORCING_RANGES[name])
    default = int(getattr(_DEFAULTS, name))
    return io.Int.Input(
        name, default=default, min=low, max=high, tooltip=tooltip, advanced=advanced
    )


class MotionCacheDiffusionForcing(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        low, high = FORCING_RANGES["condition_noise"]
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
            inputs=[
                _whole(
                    "chunk_frames",
                    "Latent frames that share a noise level. SkyReels-V2 uses 5.",
                ),
                _whole(
                    "chunk_delay",
                    "Steps by which a chunk lags behind the one before it (ar_step). 0 denoises "
                    "all chunks alike; as many as there are steps, or more, makes one chunk after "
                    "the other.",
                ),
                io.Combo.Input(
                    "solver",
                    options=list(FORCING_CHOICES["solver"]),
                    default=_DEFAULTS.solver,
                    tooltip="unipc is what SkyReels-V2 samples with; euler is simpler.",
                ),
                io.Combo.Input(
                    "attention",
                    options=list(FORCING_CHOICES["attention"]),
                    default=_DEFAULTS.attention,
                    tooltip=(
                        "block_causal: a chunk sees itself and earlier chunks, and only chunks at "
                        "work are computed. About twice as fast, but not what a bidirectional "
                        "model computes. bidirectional: all frames see each other, as the model "
                        "was published."
                    ),
                ),
                io.Float.Input(
                    "condition_noise",
                    default=_DEFAULTS.condition_noise,
                    min=low,
                    max=high,
                    step=0.005,
                    tooltip=(
                        "Noise put on given frames in the model's input. 0.02 smooths the joints "
                        "of long videos; above 0.05 they come apart."
                    ),
                ),
                _whole(
                    "window_frames",
                    "Latent frames the model sees at once; 0 is the whole clip. SkyReels-V2: 25 "
                    "(97 frames). A multiple of chunk_frames.",
                    advanced=True,
                ),
                _whole(
                    "overlap_frames",
                    "Latent frames that windows share. 0 lets one window roll on by a chunk at a "
                    "time. A multiple of chunk_frames.",
                    advanced=True,
                ),
                _whole(
                    "kv_keep",
                    "Keys and values of finished chunks to keep, in chunks; 0 keeps all. Bounds "
                    "the memory of a long video (FlowCache's compression). Block-causal only.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Sampler.Output(display_name="SAMPLER", tooltip="For SamplerCustom(Advanced).")
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        chunk_frames: int,
        chunk_delay: int,
        solver: str,
        attention: str,
        condition_noise: float,
        window_frames: int,
        overlap_frames: int,
        kv_keep: int,
    ) -> io.NodeOutput:
        options = ForcingOptions(
            chunk_frames,
            chunk_delay,
            solver,
            attention,
            condition_noise,
            window_frames,
            overlap_frames,
            kv_keep,
        )
        return io.NodeOutput(ForcingSampler(options))


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
