"""Kandinsky 5, lite and pro."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from torch import Tensor

from ..common.phrases import phrase
from ..common.protocols import DistanceSource
from ..common.reasons import Reason, because
from ..common.token_layout import TokenLayout
from ..policy.distance import InputChange
from .adapter import Adapter, Around, ModelFacts
from .block_stream import Arguments, BlockRun, BlockStream, RowGather, rows_around
from .joint_stream import heads_first, padded_layout

# width of the network that makes images
_IMAGE_WIDTH = 2560


def _facts(network: Any) -> ModelFacts:
    block, width = network.visual_transformer_blocks[0], int(network.model_dim)
    ffn = int(block.feed_forward.in_layer.out_features)
    patch = tuple(int(n) for n in network.patch_size)
    return ModelFacts(
        width=width,
        blocks=(len(network.visual_transformer_blocks),),
        heads=int(block.self_attention.num_heads),
        key_width=width,
        out_channels=int(network.in_visual_dim),
        patch=(patch[0], patch[1], patch[2]),
        image_to_video=False,
        # projections of the video rows in both attentions, and the feed-forward layer
        row_work=6 * width * width + 2 * width * ffn,
        pair_work=2 * width,
    )


def _distance(facts: ModelFacts, layout: TokenLayout, clamp: bool) -> DistanceSource:
    return InputChange()


def _around(facts: ModelFacts, layout: TokenLayout, arguments: Mapping[str, Any]) -> Around:
    given = arguments.get("time_dim_replace")
    if given is None:
        return Around()
    # frames of the video that are put in the place of the noisy ones
    first = min(-(-given.shape[2] // facts.patch[0]), layout.frames - 1)
    return Around(first * layout.spatial, first=first)


def _unfit(network: Any) -> Reason | None:
    block = network.visual_transformer_blocks[0]
    if int(network.model_dim) == _IMAGE_WIDTH:
        why = phrase("this one makes images")
    elif "sparse_params" in inspect.signature(block.forward).parameters:
        why = phrase("its sparse attention orders the tokens anew")
    else:
        return None
    return because("model_variant", name=type(network).__name__, why=why)


def _decline(arguments: Mapping[str, Any], options: Mapping[str, Any]) -> Reason | None:
    return None if arguments.get("control") is None else because("control_net")


def _stream(args: Mapping[str, Any]) -> BlockStream:
    return BlockStream(args["x"], *rows_around(args))


def _with_tokens(args: Mapping[str, Any], tokens: Tensor) -> Arguments:
    return {**args, "x": tokens}


def _take(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    return {**args, "freqs": gather.take(args["freqs"], *rows_around(args))}


def _enter(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    rows = gather.around(*rows_around(args))
    return _take({**args, "x": gather.alone(args["x"], rows)}, gather)


def _call(network: Any, index: int, args: Mapping[str, Any]) -> Arguments:
    """As the host calls a block that is not replaced. The function that it hands to replacements
    names an argument as no block does."""
    names = ("x", "context", "time_embed")
    others = {name: value for name, value in args.items() if name not in names}
    block = network.visual_transformer_blocks[index]
    return {"x": block(*(args[name] for name in names), **others)}


KANDINSKY = Adapter(
    name="Kandinsky 5",
    classes=("comfy.ldm.kandinsky5.model.Kandinsky5",),
    module_prefix="comfy.ldm.kandinsky5.",
    positional=("context", "y"),
    timestep_scale=1000.0,
    runs=(
        BlockRun(
            hook="double_block",
            stream=_stream,
            tokens=itemgetter("x"),
            with_tokens=_with_tokens,
            take=_take,
            enter=_enter,
            # behind it, text alone; above 8192 rows the host's linear layers take them in parts
            keys=(heads_first(rows_around, several_callers=True),),
            call=_call,
        ),
    ),
    facts=_facts,
    layout=padded_layout,
    distance=_distance,
    decline=_decline,
    unfit=_unfit,
    around=_around,
)
