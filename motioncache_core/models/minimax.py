"""MiniMax H3: video and sound in one packed sequence, the video last."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from torch import Tensor

from ..common.protocols import DistanceSource
from ..common.reasons import Reason, because
from ..common.token_layout import TokenLayout
from ..policy.distance import InputChange
from .adapter import Adapter, ModelFacts
from .block_stream import Arguments, BlockRun, BlockStream, RowGather
from .joint_stream import heads_first, padded_layout

# first row, row behind the last, and the modulation of one part of the sequence: the number of its
# row, or one for each of its rows
Segment = tuple[int, int, Any]


def _facts(network: Any) -> ModelFacts:
    block, width = network.blocks[0], int(network.hidden_size)
    keys = int(block.attn.heads) * int(block.attn.head_dim)
    ffn = int(block.mlp.fc2.in_features)
    patch = tuple(int(n) for n in network.patch_size)
    return ModelFacts(
        width=width,
        blocks=(len(network.blocks),),
        heads=int(block.attn.heads),
        key_width=keys,
        out_channels=int(network.latents_dim),
        patch=(patch[0], patch[1], patch[2]),
        image_to_video=False,
        # the feed-forward layer is gated
        row_work=4 * width * keys + 3 * width * ffn,
        pair_work=2 * keys,
    )


def _distance(facts: ModelFacts, layout: TokenLayout, clamp: bool) -> DistanceSource:
    return InputChange()


def _decline(arguments: Mapping[str, Any], options: Mapping[str, Any]) -> Reason | None:
    return None if arguments.get("control") is None else because("control_net")


def _around(args: Mapping[str, Any]) -> tuple[int, int]:
    """Text, conditions and sound stand in front of the video, which is the last segment."""
    return int(args["mod_segments"][-1][0]), 0


def _tokens(args: Mapping[str, Any]) -> Tensor:
    # one clip, without a dimension for it
    tokens: Tensor = args["img"]
    return tokens[None]


def _stream(args: Mapping[str, Any]) -> BlockStream:
    return BlockStream(_tokens(args), *_around(args))


def _with_tokens(args: Mapping[str, Any], tokens: Tensor) -> Arguments:
    return {**args, "img": tokens[0]}


def _take(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    rows = gather.rows[0]
    segments: list[Segment] = list(args["mod_segments"])
    start, _, row = segments[-1]
    if isinstance(row, Tensor):
        # a mask gives the video's rows levels of their own
        levels = row
        row = gather.once(levels, lambda: levels.index_select(0, rows))
    segments[-1] = start, start + len(rows), row
    freqs = gather.take(args["rope_freqs"], *_around(args))
    return {**args, "mod_segments": segments, "rope_freqs": freqs}


def _enter(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    tokens = gather.alone(_tokens(args), gather.around(*_around(args)))
    return _take(_with_tokens(args, tokens), gather)


MINIMAX_H3 = Adapter(
    name="MiniMax H3",
    classes=("comfy.ldm.minimax.model.MiniMaxH3Model",),
    module_prefix="comfy.ldm.minimax.",
    positional=("context", "transformer_options"),
    timestep_scale=1000.0,
    runs=(
        BlockRun(
            hook="double_block",
            stream=_stream,
            tokens=_tokens,
            with_tokens=_with_tokens,
            take=_take,
            enter=_enter,
            keys=(heads_first(_around),),
            writes_input=True,
        ),
    ),
    facts=_facts,
    layout=padded_layout,
    distance=_distance,
    decline=_decline,
    video=itemgetter(0),
    answers_beside=True,
)
