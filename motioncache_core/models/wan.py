"""Wan 2.1 and 2.2 (and SkyReels-V2, which has the same network)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..common.errors import CacheShapeError
from ..common.protocols import DistanceSource
from ..common.reasons import Reason, because
from ..common.token_layout import TokenLayout
from ..demo.wan import DemoWan
from ..policy.distance import InputChange, TimestepPolynomial
from .adapter import Adapter, ModelFacts

# highest power first; ret = fitted on the modulation that enters every block
_WAN_POLYNOMIALS: dict[str, tuple[float, ...]] = {
    "Wan 2.1 T2V 1.3B": (
        -5.21862437e04, 9.23041404e03, -5.28275948e02, 1.36987616e01, -4.99875664e-02,
    ),
    "Wan 2.1 T2V 14B": (
        -3.03318725e05, 4.90537029e04, -2.65530556e03, 5.87365115e01, -3.15583525e-01,
    ),
    "Wan 2.1 I2V 14B 480P": (
        2.57151496e05, -3.54229917e04, 1.40286849e03, -1.35890334e01, 1.32517977e-01,
    ),
    "Wan 2.1 I2V 14B 720P": (
        8.10705460e03, 2.13393892e03, -3.72934672e02, 1.66203073e01, -4.17769401e-02,
    ),
}  # fmt: skip


# the 480P fit is used up to this many tokens a frame: halfway between 832x480 and 1280x720
_I2V_480P_TOKENS = 2580


def _facts(network: Any) -> ModelFacts:
    patch = tuple(int(n) for n in network.patch_size)
    return ModelFacts(
        width=int(network.dim),
        ffn_width=int(network.blocks[0].ffn[0].out_features),
        blocks=len(network.blocks),
        heads=int(network.num_heads),
        out_channels=int(network.out_dim),
        patch=(patch[0], patch[1], patch[2]),
        image_to_video=network.model_type == "i2v" or int(network.in_dim) > int(network.out_dim),
    )


def _layout(facts: ModelFacts, x: Tensor) -> TokenLayout:
    if x.ndim != 5:
        raise CacheShapeError(
            f"the latent has shape {tuple(x.shape)}; a video model takes (batch, channels, frames, "
            "height, width). Use an empty video latent instead of an image latent"
        )
    frames, height, width = (
        -(-size // step) for size, step in zip(x.shape[2:], facts.patch, strict=True)
    )
    return TokenLayout(frames, height, width)


def wan_distance(
    width: int, image_to_video: bool, frame_tokens: int, clamp: bool
) -> DistanceSource:
    """The measure for a Wan model of this width and kind; other sizes use `InputChange`."""
    name = {(1536, False): "Wan 2.1 T2V 1.3B", (5120, False): "Wan 2.1 T2V 14B"}.get(
        (width, image_to_video)
    )
    if width == 5120 and image_to_video:
        size = "480P" if frame_tokens <= _I2V_480P_TOKENS else "720P"
        name = f"Wan 2.1 I2V 14B {size}"
    if name is None:
        return InputChange()
    return TimestepPolynomial(name, _WAN_POLYNOMIALS[name], clamp)


def polynomial_names() -> Sequence[str]:
    """Models that have coefficients."""
    return tuple(_WAN_POLYNOMIALS)


def _distance(facts: ModelFacts, layout: TokenLayout, clamp: bool) -> DistanceSource:
    return wan_distance(facts.width, facts.image_to_video, layout.spatial, clamp)


_EXTRA_ARGUMENTS = {
    "reference_latent": "a reference image adds tokens before the video",
    "context_latents": "in-context latents add tokens after the video",
    "time_dim_concat": "extra frames are appended to the video",
}


def _decline_call(arguments: Mapping[str, Any], options: Mapping[str, Any]) -> Reason | None:
    for name, why in _EXTRA_ARGUMENTS.items():
        if arguments.get(name) is not None:
            return because("extra_tokens", why=why, name=name)
    return because("autoregressive") if "ar_state" in options else None


WAN = Adapter(
    name="Wan",
    classes=("comfy.ldm.wan.model.WanModel", f"{DemoWan.__module__}.{DemoWan.__qualname__}"),
    module_prefix="comfy.ldm.wan.",
    block_type="double_block",
    attention_call=1,
    timestep_scale=1000.0,
    positional=("context", "clip_fea", "time_dim_concat", "transformer_options"),
    facts=_facts,
    layout=_layout,
    distance=_distance,
    decline_call=_decline_call,
    declined={
        "CausalWanModel": "its autoregressive sampler bypasses the block hooks",
        "VaceWanModel": "VACE blocks add to the tokens between blocks",
        "CameraWanModel": "the camera adapter needs a timestep layout that is not handled yet",
        "WanModel_S2V": "audio is injected between blocks",
        "HumoWanModel": "audio cross-attention needs all tokens in order",
        "SCAILWanModel": "pose tokens follow the video tokens",
        "SCAIL2WanModel": "pose tokens follow the video tokens",
        "AnimateWanModel": "the face adapter works between blocks",
        "WanAnimate2Model": "self-attention runs frame by frame with its own keys and values",
        "WanDancerModel": "music is injected between blocks",
    },
)
