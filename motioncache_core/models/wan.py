"""Wan 2.1 and 2.2 (and SkyReels-V2, which has the same network)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from ..common.errors import CacheShapeError
from ..common.phrases import phrase
from ..common.protocols import DistanceSource
from ..common.reasons import Reason, because
from ..common.token_layout import TokenLayout
from ..policy.distance import InputChange, TimestepPolynomial
from .adapter import Adapter, Around, ModelFacts
from .block_stream import (
    Arguments,
    BlockRun,
    BlockStream,
    KeySite,
    RowGather,
    flat,
    like,
    rows_around,
)

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


@dataclass(frozen=True)
class WanFacts(ModelFacts):
    """With what some of the family's networks have besides.

    Attributes:
        takes_reference: whether a reference image becomes rows in front of the video's.
    """

    takes_reference: bool = False


def _facts(network: Any) -> WanFacts:
    patch = tuple(int(n) for n in network.patch_size)
    width, ffn = int(network.dim), int(network.blocks[0].ffn[0].out_features)
    return WanFacts(
        width=width,
        blocks=(len(network.blocks),),
        heads=int(network.num_heads),
        key_width=width,
        out_channels=int(network.out_dim),
        patch=(patch[0], patch[1], patch[2]),
        image_to_video=network.model_type == "i2v" or int(network.in_dim) > int(network.out_dim),
        # self- and cross-attention projections of the video rows and the feed-forward layer; text
        # tokens are left out
        row_work=6 * width * width + 2 * width * ffn,
        pair_work=2 * width,
        takes_reference=getattr(network, "ref_conv", None) is not None,
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


def _decline(arguments: Mapping[str, Any], options: Mapping[str, Any]) -> Reason | None:
    return because("autoregressive") if "ar_state" in options else None


def rows_of(latent: Tensor, patch: tuple[int, int, int]) -> int:
    """Tokens of latents `(B, C, F, H, W)`, filled up to whole patches."""
    return math.prod(-(-n // step) for n, step in zip(latent.shape[2:], patch, strict=True))


def around(facts: ModelFacts, layout: TokenLayout, arguments: Mapping[str, Any]) -> Around:
    """Rows of a reference image in front of the video's; behind them frames that were appended,
    and latents in context."""
    before, image = 0, arguments.get("reference_latent")
    if image is not None and isinstance(facts, WanFacts) and facts.takes_reference:
        _, rows, columns = facts.patch
        before = (image.shape[-2] // rows) * (image.shape[-1] // columns)
    appended = arguments.get("time_dim_concat")
    behind = 0 if appended is None else rows_of(appended, facts.patch)
    context = arguments.get("context_latents") or ()
    return Around(before, behind + sum(rows_of(latent, facts.patch) for latent in context))


def _shift_frames(options: Mapping[str, Any], frames: int) -> dict[str, Any]:
    if frames == 0:
        return dict(options)
    rope = dict(options.get("rope_options") or {})
    rope["shift_t"] = rope.get("shift_t", 0.0) + frames
    return {**options, "rope_options": rope}


def stream(args: Mapping[str, Any]) -> BlockStream:
    """What enters a block."""
    vec: Tensor = args["vec"]
    variant = vec.ndim, min(2, vec.shape[1])
    modulation = partial(modulation_row, vec)
    return BlockStream(args["img"], *rows_around(args), modulation, variant)


def modulation_row(vec: Tensor, row: int = 0) -> Tensor:
    """The modulation `(T, 6, C)` of one batch row of `(B, T, 6, C)` or `(B, 6, C)`."""
    return vec[row] if vec.ndim == 4 else vec[row : row + 1]


def with_tokens(args: Mapping[str, Any], tokens: Tensor) -> Arguments:
    """Arguments or answer with other tokens."""
    return {**args, "img": tokens}


def enter(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    """Tokens, rotary table and modulation in one pass."""
    x, pe, vec = args["img"], args["pe"], args["vec"]
    beside = rows_around(args)
    listed = _steps(vec) > 1 and gather.frames is None
    out, rotary, modulation = gather.ops.gather_rows(
        flat(x), gather.around(*beside), flat(pe), flat(vec) if listed else None,
        divisor=_rows_a_step(vec, gather, beside),
    )  # fmt: skip
    for source, gathered in ((pe, rotary), (vec, modulation)):
        if gathered is not None:
            gather.keep(source, like(gathered, source))
    return take({**args, "img": like(out, x)}, gather)


def enter_each(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    """The same for every block of a call, which share all but the tokens."""
    rows = gather.around(*rows_around(args))
    return take({**args, "img": gather.alone(args["img"], rows)}, gather)


def take(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    """Rotary table and modulation."""
    pe, vec = args["pe"], args["vec"]
    beside = rows_around(args)
    sides = {"pe": gather.take(pe, *beside)}
    steps = _steps(vec)
    if steps > 1 and gather.frames is not None:
        chosen = gather.frames
        sides["vec"] = gather.once(vec, lambda: _frames(vec, chosen))
    elif steps > 1:
        per_row, rows = _rows_a_step(vec, gather, beside), gather.around(*beside)
        # padding stays negative
        sides["vec"] = gather.once(vec, lambda: gather.alone(vec, rows // per_row))
    return {**args, **sides}


def _steps(vec: Tensor) -> int:
    """Timesteps that the modulation tells apart in a batch row."""
    return vec.shape[1] if vec.ndim == 4 else 1


def _rows_a_step(vec: Tensor, gather: RowGather, beside: tuple[int, int]) -> int:
    """Rows that share a timestep. Where they do not come out even, the host gives the last one
    fewer."""
    return -(-(gather.tokens + sum(beside)) // _steps(vec))


def _frames(x: Tensor, frames: Sequence[slice]) -> Tensor:
    parts = [x[:, part] for part in frames]
    # contiguous whatever the number of ranges: strides of their own would compile blocks again
    return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts, 1)


BLOCKS = BlockRun(
    hook="double_block",
    stream=stream,
    tokens=itemgetter("img"),
    with_tokens=with_tokens,
    take=take,
    enter=enter,
    keys=(KeySite(around=rows_around),),
)
WAN = Adapter(
    name="Wan",
    # the shipped model, in a room above this one
    classes=(
        "comfy.ldm.wan.model.WanModel",
        f"{__name__.removesuffix('.models.wan')}.demo.wan.DemoWan",
    ),
    module_prefix="comfy.ldm.wan.",
    positional=("context", "clip_fea", "time_dim_concat", "transformer_options"),
    timestep_scale=1000.0,
    runs=(BLOCKS,),
    facts=_facts,
    layout=_layout,
    distance=_distance,
    decline=_decline,
    around=around,
    beside={
        "reference_latent": phrase("a reference image adds tokens before the video"),
        "context_latents": phrase("in-context latents add tokens after the video"),
        "time_dim_concat": phrase("extra frames are appended to the video"),
    },
    shift_frames=_shift_frames,
    declined={
        "WanAnimate2Model": phrase(
            "self-attention runs frame by frame with its own keys and values"
        ),
    },
)
