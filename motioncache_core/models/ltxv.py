"""LTX-Video."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from torch import Tensor

from ..common.protocols import DistanceSource
from ..common.reasons import Reason, because
from ..common.token_layout import TokenLayout
from ..policy.distance import InputChange
from .adapter import Adapter, Around, ModelFacts
from .block_stream import Arguments, BlockRun, BlockStream, KeySite, RowGather, rows_around
from .joint_stream import padded_layout

# options by which other nodes take the self-attention out of a block
_PERTURBED = ("stg_self_attn_blocks", "stg_skip_self_attn")


def _facts(network: Any) -> ModelFacts:
    width = int(network.inner_dim)
    return ModelFacts(
        width=width,
        blocks=(len(network.transformer_blocks),),
        heads=int(network.num_attention_heads),
        key_width=width,
        out_channels=int(network.out_channels),
        patch=(1, 1, 1),
        image_to_video=False,
        # projections of the video rows in both attentions, and the feed-forward layer, which is
        # four times as wide
        row_work=14 * width * width,
        pair_work=2 * width,
    )


def distance(facts: ModelFacts, layout: TokenLayout, clamp: bool) -> DistanceSource:
    """No profile of this family is published."""
    return InputChange()


def around(facts: ModelFacts, layout: TokenLayout, arguments: Mapping[str, Any]) -> Around:
    """Guides are latent frames behind the video, of which the host may leave out some rows."""
    places = arguments.get("keyframe_idxs")
    if places is None or places.shape[2] == 0:
        return Around()
    frames = min(places.shape[2] // layout.spatial, layout.frames - 1)
    return Around(behind=None, last=frames)


def decline(arguments: Mapping[str, Any], options: Mapping[str, Any]) -> Reason | None:
    """Blocks without self-attention have no keys."""
    for name in _PERTURBED:
        if options.get(name):
            return because("block_patch", name=name)
    return None if arguments.get("control") is None else because("control_net")


def rotary(table: tuple[Tensor, bool], gather: RowGather, args: Mapping[str, Any]) -> Any:
    """Rows of a rotary table, which comes with how its pairs lie."""
    matrix, split = table
    return gather.take(matrix, *rows_around(args)), split


def guides(mask: Any, gather: RowGather) -> Any:
    """A mask that splits the queries at the first guide: they are fewer now."""
    if mask is None:
        return None
    fewer = copy.copy(mask)
    fewer.guide_start = gather.rows.shape[1]
    return fewer


def _stream(args: Mapping[str, Any]) -> BlockStream:
    return BlockStream(args["img"], *rows_around(args), variant=(min(2, args["vec"].shape[1]),))


def _with_tokens(args: Mapping[str, Any], tokens: Tensor) -> Arguments:
    return {**args, "img": tokens}


def _take(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    vec: Tensor = args["vec"]
    return {
        **args,
        "pe": rotary(args["pe"], gather, args),
        # a mask gives rows a timestep of their own
        "vec": vec if vec.shape[1] == 1 else gather.take(vec, *rows_around(args)),
        "self_attention_mask": guides(args.get("self_attention_mask"), gather),
    }


def _enter(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    rows = gather.around(*rows_around(args))
    return _take({**args, "img": gather.alone(args["img"], rows)}, gather)


LTXV = Adapter(
    name="LTX-Video",
    classes=("comfy.ldm.lightricks.model.LTXVModel",),
    module_prefix="comfy.ldm.lightricks.",
    positional=(
        "context", "attention_mask", "frame_rate", "transformer_options", "keyframe_idxs",
    ),
    timestep_scale=1.0,
    runs=(
        BlockRun(
            hook="double_block",
            stream=_stream,
            tokens=itemgetter("img"),
            with_tokens=_with_tokens,
            take=_take,
            enter=_enter,
            keys=(KeySite(around=rows_around, mask=True),),
            writes_input=True,
        ),
    ),
    facts=_facts,
    layout=padded_layout,
    distance=distance,
    decline=decline,
    around=around,
)  # fmt: skip
