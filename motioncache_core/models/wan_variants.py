"""Networks of Wan's family that add rows to the video's, or work on all rows between blocks.

Their blocks are Wan's. Rows of references, poses and contexts are computed in every call. What is
added to single rows between blocks (hints, audio, music, faces) is exact for the rows that are
active, as long as all rows are there to add it to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..common.protocols import DistanceSource
from ..common.reasons import Reason
from ..common.token_layout import TokenLayout
from ..policy.distance import InputChange
from .adapter import Adapter, Around, ModelFacts
from .wan import BLOCKS, WAN, around, enter_each, rows_of


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


def _appended(facts: ModelFacts, layout: TokenLayout, arguments: Mapping[str, Any]) -> int:
    """Rows of frames that were appended to the video."""
    return around(facts, layout, {**arguments, "context_latents": ()}).behind or 0


def _scail(facts: ModelFacts, layout: TokenLayout, arguments: Mapping[str, Any]) -> Around:
    """Reference frames in front of the video's, poses behind them."""
    reference, poses = arguments.get("reference_latent"), arguments.get("pose_latents")
    return Around(
        0 if reference is None else rows_of(reference, facts.patch),
        _appended(facts, layout, arguments) + (0 if poses is None else rows_of(poses, facts.patch)),
    )


def reference_behind(
    facts: ModelFacts, layout: TokenLayout, arguments: Mapping[str, Any]
) -> Around:
    """Reference frames behind the video's."""
    reference = arguments.get("reference_latent")
    behind = 0 if reference is None else rows_of(reference, facts.patch)
    return Around(0, _appended(facts, layout, arguments) + behind)


def _speech(facts: ModelFacts, layout: TokenLayout, arguments: Mapping[str, Any]) -> Around:
    """The same, and behind those what the video went on from: its newest frame in patches of the
    usual size, two in patches twice as large, and sixteen in patches four times as large."""
    found, motion = reference_behind(facts, layout, arguments), arguments.get("reference_motion")
    if motion is None:
        return found
    height, width = motion.shape[-2:]
    frames = zip((1, 1, 4), (2, 4, 8), strict=True)
    rows = sum(n * (height // patch) * (width // patch) for n, patch in frames)
    return Around(0, (found.behind or 0) + rows)


def _injected(name: str) -> Callable[[Any], ModelFacts]:
    """Facts of a network that has all rows attend to a few words, behind some of its blocks.

    Args:
        name: the module that does, among its modules the list of attentions.
    """

    def facts(network: Any) -> ModelFacts:
        found = WAN.facts(network)
        module, _, attentions = name.partition(".")
        times = len(getattr(getattr(network, module), attentions))
        # queries and what comes out; the words are too few to count
        return replace(found, beside=(2 * found.width**2 * times // sum(found.blocks), 0))

    return facts


# something is added to the tokens between the blocks
SPREAD = replace(BLOCKS, enter=enter_each, full_length=True)

WAN_CAMERA = variant("Wan Fun-Camera", "model.CameraWanModel")
WAN_SCAIL = variant("Wan SCAIL", "model.SCAILWanModel", "model.SCAIL2WanModel", around=_scail)
WAN_S2V = variant(
    "Wan S2V", "model.WanModel_S2V", runs=(SPREAD,), around=_speech,
    facts=_injected("audio_injector.injector"),
)  # fmt: skip
WAN_ANIMATE = variant(
    "Wan Animate", "model_animate.AnimateWanModel", runs=(SPREAD,),
    facts=_injected("face_adapter.fuser_blocks"),
)  # fmt: skip
WAN_DANCER = variant(
    "WanDancer", "model_wandancer.WanDancerModel", runs=(SPREAD,),
    facts=_injected("music_injector.injector"),
)  # fmt: skip
