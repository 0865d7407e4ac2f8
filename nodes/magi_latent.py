"""An empty video for MAGI-1, or one that goes on from a picture or a video."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..motioncache_core import CacheShapeError, SettingsError
from ..motioncache_core.models.magi1.vae import FRAMES, LATENT_CHANNELS, PIXELS
from .host.loaders import intermediate_device
from .types import CATEGORY

# latent frames of a chunk
_CHUNK = 6
# the network joins 2 x 2 latents and needs two of these each way
_SIDE, _LEAST, _MOST = 16, 32, 4096


class MotionCacheMagiLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheMagiLatent",
            display_name="MotionCache Magi Latent",
            category=f"{CATEGORY}/sampling",
            description=(
                "An empty video for MAGI-1, in whole chunks of 24 frames. With a start it goes on "
                "from that: a picture (image to video) or a video (video extension)."
            ),
            search_aliases=["magi latent", "empty latent video", "image to video", "extend video"],
            inputs=[
                io.Int.Input(
                    "width",
                    default=720,
                    min=_LEAST,
                    max=_MOST,
                    step=_SIDE,
                    tooltip="Pixels. Published: 720 x 720 for 4.5B, 1280 x 720 for 24B.",
                ),
                io.Int.Input(
                    "height", default=720, min=_LEAST, max=_MOST, step=_SIDE, tooltip="Pixels."
                ),
                io.Int.Input(
                    "frames",
                    default=96,
                    min=FRAMES,
                    max=24 * 200,
                    step=FRAMES,
                    tooltip=(
                        "Frames to make, 24 a second. Filled up to whole chunks of 24, together "
                        "with the frames of a start."
                    ),
                ),
                io.Latent.Input(
                    "start",
                    optional=True,
                    tooltip=(
                        "A picture or a video to go on from: VAE Encode with MAGI-1's VAE, at "
                        "this width and height. Its frames stay as they are."
                    ),
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
    def execute(
        cls, width: int, height: int, frames: int, start: dict[str, Any] | None = None
    ) -> io.NodeOutput:
        for name, value in (("width", width), ("height", height)):
            if value % _SIDE or not _LEAST <= value <= _MOST:
                near = min(max(round(value / _SIDE) * _SIDE, _LEAST), _MOST)
                raise SettingsError(
                    f"{name} is {value}; MAGI-1 takes multiples of {_SIDE} from {_LEAST} to "
                    f"{_MOST}: use {near}"
                )
        if frames < FRAMES or frames % FRAMES:
            below = frames // FRAMES * FRAMES
            raise SettingsError(
                f"frames is {frames}; MAGI-1 makes {FRAMES} frames of one latent: use "
                f"{f'{below} or ' if below > 0 else ''}{max(below + FRAMES, FRAMES)}"
            )
        size = (height // PIXELS, width // PIXELS)
        if start is None:
            known = torch.zeros(1, LATENT_CHANNELS, 0, *size)
        else:
            known = _checked(start["samples"], size)
        given = known.shape[2]
        chunks = -(-(frames // FRAMES + given) // _CHUNK)
        samples = known.new_zeros(1, LATENT_CHANNELS, chunks * _CHUNK, *size)
        samples[:, :, :given] = known
        made = {"samples": samples.to(intermediate_device())}
        if given:
            made["noise_mask"] = torch.ones(1, 1, *samples.shape[2:])
            made["noise_mask"][:, :, :given] = 0
        return io.NodeOutput(made)


def _checked(samples: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The start, once it is one video of MAGI-1 of the wanted size."""
    shape = tuple(samples.shape)
    if samples.ndim != 5 or shape[1] != LATENT_CHANNELS:
        raise CacheShapeError(
            f"start has shape {shape}; latents of MAGI-1 have (1, {LATENT_CHANNELS}, frames, "
            "height, width). Encode with MotionCache Load Magi VAE and VAE Encode"
        )
    if shape[0] != 1:
        raise CacheShapeError(
            f"start holds {shape[0]} videos; MAGI-1 makes one at a time. Give one of them"
        )
    if shape[3:] != size:
        raise CacheShapeError(
            f"start is {shape[4] * PIXELS} x {shape[3] * PIXELS} pixels, width and height say "
            f"{size[1] * PIXELS} x {size[0] * PIXELS}. Resize the picture before VAE Encode, or "
            "change width and height"
        )
    return samples
