"""Networks of Wan's family that add rows to the video's, or work on all rows between blocks.

Their blocks are Wan's. Rows of references, poses and contexts are computed in every call. What is
added to single rows between blocks (hints, audio, music, faces) is exact for the rows that are
active, as long as all rows are there to add it to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..common.protocols import DistanceSource
from ..common.reasons import Reason
from ..common.token_layout import TokenLayout
from ..policy.distance import InputChange
from .adapter import Adapter, ModelFacts
from .wan import BLOCKS, WAN, enter_each


def _distance(facts: ModelFacts, layout: TokenLayout, clamp: bool) -> DistanceSource:
    # the polynomials were fitted on the plain network's timestep modulation
    return InputChange()


def _nothing(arguments: Mapping[str, Any], options: Mapping[str, Any]) -> Reason | None:
    return None


def variant(name: str, *classes: str, **changes: Any) -> Adapter:
    """Wan's adapter for other networks of its family.

    Args:
        classes: their names in ComfyUI's package of the family.
        changes: fields that differ.
    """
    changed: dict[str, Any] = {
        "distance": _distance, "decline": _nothing, "declined": {}, "beside": {},
        "shift_frames": None, **changes,
    }  # fmt: skip
    qualified = tuple(f"{WAN.module_prefix}{short}" for short in classes)
    return replace(WAN, name=name, classes=qualified, **changed)


def _reference_frames(network: Any, arguments: Mapping[str, Any]) -> int:
    """Rows of the reference frames that stand in front of the video's, of its size."""
    latents = arguments.get("reference_latent")
    if latents is None:
        return 0
    frames, height, width = (
        -(-int(size) // int(step))
        for size, step in zip(latents.shape[2:], network.patch_size, strict=True)
    )
    return frames * height * width


# something is added to the tokens between the blocks
SPREAD = replace(BLOCKS, enter=enter_each, full_length=True)

WAN_CAMERA = variant("Wan Fun-Camera", "model.CameraWanModel")
WAN_SCAIL = variant(
    "Wan SCAIL", "model.SCAILWanModel", "model.SCAIL2WanModel", before=_reference_frames
)
WAN_S2V = variant("Wan S2V", "model.WanModel_S2V", runs=(SPREAD,))
WAN_ANIMATE = variant("Wan Animate", "model_animate.AnimateWanModel", runs=(SPREAD,))
WAN_DANCER = variant("WanDancer", "model_wandancer.WanDancerModel", runs=(SPREAD,))
WAN_VACE = variant("Wan VACE", "model.VaceWanModel", runs=(SPREAD,))
