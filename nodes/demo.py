"""A small model that ships with the pack, so that a workflow runs with nothing downloaded."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..motioncache_core import Trace, TraceHandle
from ..motioncache_core.common.reasons import because
from ..motioncache_core.demo import checkpoint, clips, codec, conditions, scenes
from .host.loaders import from_model_space, intermediate_device, load_demo_model, to_model_space
from .host.uncached import timed
from .types import CATEGORY, TraceSocket


class MotionCacheDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheDemoModel",
            display_name="MotionCache Demo Model",
            category=f"{CATEGORY}/demo",
            description=(
                "A tiny video model of the Wan 2.1 family that draws moving shapes. It is made "
                "to try MotionCache in seconds, not to make videos."
            ),
            search_aliases=["motion cache demo", "example model", "test model"],
            inputs=[
                io.Combo.Input(
                    "scene",
                    options=list(scenes.SCENES),
                    tooltip="What to draw. The motion is known, so the map can be checked.",
                ),
                io.Int.Input(
                    "frames",
                    default=9,
                    min=3,
                    max=checkpoint.FRAMES,
                    tooltip="Video frames (latent frames).",
                ),
                io.Int.Input("batch_size", default=1, min=1, max=16, tooltip="Videos at once."),
                io.Int.Input(
                    "take",
                    default=0,
                    min=0,
                    max=0xFFFFFFFF,
                    tooltip="Seed of what the scene leaves open: exact places and speeds.",
                    optional=True,
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The demo model."),
                io.Conditioning.Output(
                    display_name="positive",
                    tooltip="The scene, its first frame and its control video.",
                ),
                io.Conditioning.Output(display_name="negative", tooltip="The empty prompt."),
                io.Latent.Output(
                    display_name="LATENT", tooltip=f"An empty latent video. {checkpoint.LIMITS}"
                ),
                TraceSocket.Output(
                    display_name="trace",
                    tooltip="How long runs without MotionCache took, for MotionCache Compare.",
                ),
            ],
        )

    @classmethod
    def execute(cls, scene: str, frames: int, batch_size: int, take: int = 0) -> io.NodeOutput:
        handle, told = TraceHandle(), Trace({}, reason=because("no_trace"), finished=True)
        model = load_demo_model(checkpoint.state_dict(), checkpoint.profile(), checkpoint.SHIFT)
        model = timed(model, handle, told)
        clip = clips.clip(scenes.SCENES[scene], frames, take)
        mask, first = clip.conditions.split((conditions.MASK_CHANNELS, codec.CHANNELS), dim=1)
        # as the host's image-to-video nodes give them: latents of its space, and 1 where a frame
        # is to be made
        shown = {"concat_latent_image": from_model_space(first), "concat_mask": 1 - mask[:, :1]}
        empty = torch.zeros(batch_size, codec.CHANNELS, frames, clips.SIDE, clips.SIDE)
        positive, negative = ([[text, dict(shown)]] for text in clip.text)
        return io.NodeOutput(
            model, positive, negative, {"samples": empty.to(intermediate_device())}, handle
        )


class MotionCacheDemoDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheDemoDecode",
            display_name="MotionCache Demo Decode",
            category=f"{CATEGORY}/demo",
            description="Turns latents of the demo model into frames.",
            search_aliases=["motion cache demo decode"],
            inputs=[
                io.Latent.Input("samples", tooltip="Latents of the demo model."),
                io.Int.Input(
                    "scale", default=4, min=1, max=16, tooltip="Enlarge the 64x64 frames by this."
                ),
            ],
            outputs=[io.Image.Output(display_name="IMAGE", tooltip="The frames.")],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], scale: int) -> io.NodeOutput:
        video = codec.decode(to_model_space(samples["samples"])).flatten(0, 1)
        if scale > 1:
            video = torch.nn.functional.interpolate(
                video.permute(0, 3, 1, 2), scale_factor=scale, mode="bicubic"
            )
            video = video.permute(0, 2, 3, 1).clamp(0, 1)
        return io.NodeOutput(video.to(intermediate_device()))
