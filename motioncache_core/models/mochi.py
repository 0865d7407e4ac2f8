"""Mochi: attention is over video, then the words of the text that are no padding."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from torch import Tensor

from .adapter import MODEL, Adapter, ModelFacts, given_clean
from .block_stream import Arguments, BlockRun, BlockStream, RowGather
from .joint_stream import heads_first
from .whole_model import by_input, grid_of, no_reason


def _facts(network: Any) -> ModelFacts:
    width, space = int(network.hidden_size_x), int(network.patch_size)
    hidden = int(network.blocks[0].mlp_x.w2.in_features)
    return ModelFacts(
        width=width,
        blocks=(len(network.blocks),),
        heads=int(network.num_heads),
        key_width=width,
        out_channels=int(network.out_channels),
        patch=(1, space, space),
        image_to_video=False,
        # the feed-forward layer is gated
        row_work=4 * width * width + 3 * width * hidden,
        pair_work=2 * width,
    )


def _words(args: Mapping[str, Any]) -> tuple[int, int]:
    return 0, min(int(args["num_tokens"]), args["txt"].shape[1])


def _with_tokens(args: Mapping[str, Any], tokens: Tensor) -> Arguments:
    return {**args, "img": tokens}


def _take(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    return {**args, **{name: _rows(args[name], gather) for name in ("rope_cos", "rope_sin")}}


def _rows(table: Tensor, gather: RowGather) -> Tensor:
    """Rows of a table `(L, heads, d)`."""
    return gather.once(table, lambda: gather.alone(table[None], gather.rows))


def _enter(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    return _take({**args, "img": gather.alone(args["img"], gather.rows)}, gather)


MOCHI = Adapter(
    name="Mochi",
    classes=("comfy.ldm.genmo.joint_model.asymm_models_joint.AsymmDiTJoint",),
    module_prefix="comfy.ldm.genmo.",
    positional=(),
    timestep_scale=1.0,
    entry=MODEL,
    runs=(
        BlockRun(
            hook="double_block",
            stream=lambda args: BlockStream(args["img"]),
            tokens=itemgetter("img"),
            with_tokens=_with_tokens,
            take=_take,
            enter=_enter,
            keys=(heads_first(_words),),
        ),
    ),
    facts=_facts,
    layout=grid_of,
    distance=by_input,
    decline=no_reason,
    clean=given_clean,
)
