"""What adapters share whose calls are those of the model around the network: noisy latents and a
noise level in, clean latents out, whatever the network itself is made to predict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..common.errors import CacheShapeError
from ..common.protocols import DistanceSource
from ..common.reasons import Reason
from ..common.token_layout import TokenLayout
from ..policy.distance import InputChange
from .adapter import ModelFacts


def grid_of(facts: ModelFacts, x: Tensor) -> TokenLayout:
    """The grid of latents `(B, C, F, H, W)`, filled up to whole patches.

    Raises:
        CacheShapeError: they are no video.
    """
    if x.ndim != 5:
        raise CacheShapeError(
            f"the latent has shape {tuple(x.shape)}; a video model takes (batch, channels, frames, "
            "height, width). Use an empty video latent instead of an image latent"
        )
    frames, height, width = (
        -(-size // step) for size, step in zip(x.shape[2:], facts.patch, strict=True)
    )
    return TokenLayout(frames, height, width)


def by_input(facts: ModelFacts, layout: TokenLayout, clamp: bool) -> DistanceSource:
    """The measure of models that none was fitted for."""
    return InputChange()


def no_reason(arguments: Mapping[str, Any], options: Mapping[str, Any]) -> Reason | None:
    """Of a family that declines no call."""
    return None
