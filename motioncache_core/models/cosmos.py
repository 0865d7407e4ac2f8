"""Cosmos-Predict2: its blocks have no hook and see tokens as a grid of frames, rows and columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

from torch import Tensor

from ..common.phrases import phrase
from ..common.reasons import Reason, because
from .adapter import MODEL, Adapter, ModelFacts, given_clean
from .block_stream import GRID, Arguments, BlockRun, BlockStream, RowGather, Shadow
from .joint_stream import heads_first
from .whole_model import by_input, grid_of, no_reason

# what the network calls a block's arguments
_ROTARY, _MODULATION = "rope_emb_L_1_1_D", "adaln_lora_B_T_3D"


def _facts(network: Any) -> ModelFacts:
    width, block = int(network.model_channels), network.blocks[0]
    hidden, space = int(block.mlp.layer1.out_features), int(network.patch_spatial)
    return ModelFacts(
        width=width,
        blocks=(len(network.blocks),),
        heads=int(network.num_heads),
        key_width=width,
        out_channels=int(network.out_channels),
        patch=(int(network.patch_temporal), space, space),
        image_to_video=False,
        row_work=6 * width * width + 2 * width * hidden,
        pair_work=2 * width,
    )


def _unfit(network: Any) -> Reason | None:
    if not getattr(network, "extra_per_block_abs_pos_emb", False):
        return None
    why = phrase("a position is added in every block")
    return because("model_variant", name=type(network).__name__, why=why)


def _bind(x: Tensor, emb: Tensor, context: Tensor, **more: Any) -> Arguments:
    return {
        "img": x.flatten(1, 3), "grid": x, "txt": context, "vec": emb, "pe": more.pop(_ROTARY),
        "lora": more.pop(_MODULATION), "transformer_options": more.pop("transformer_options"),
        "more": more,
    }  # fmt: skip


def _call(block: Callable[..., Tensor], args: Arguments, gather: RowGather | None) -> Arguments:
    x: Tensor = args["img"]
    if gather is None:
        # as it came: another layout in memory would round otherwise
        grid: Tensor = args["grid"]
    elif args["vec"].shape[1] == 1:
        grid = x[:, None, None]
    else:
        # each row is a frame, with a modulation of its own
        grid = x[:, :, None, None]
    out = block(
        grid, args["vec"], args["txt"], transformer_options=args["transformer_options"],
        **{_ROTARY: args["pe"], _MODULATION: args["lora"]}, **args["more"],
    )  # fmt: skip
    return {**args, "img": out.flatten(1, 3)}


def _answer(out: Arguments) -> Tensor:
    x: Tensor = out["img"]
    frames, height, width = out["transformer_options"][GRID]
    whole = x.shape[1] == frames * height * width
    return x.unflatten(1, (frames, height, width)) if whole else x[:, None, None]


def _stream(args: Mapping[str, Any]) -> BlockStream:
    return BlockStream(args["img"], variant=(min(2, args["vec"].shape[1]),))


def _with_tokens(args: Mapping[str, Any], tokens: Tensor) -> Arguments:
    return {**args, "img": tokens}


def _take(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    sides: Arguments = {"pe": gather.take(args["pe"])}
    steps = args["vec"].shape[1]
    if steps > 1:
        frames = gather.rows // (gather.tokens // steps)
        for name in ("vec", "lora"):
            sides[name] = _of_frames(args[name], gather, frames)
    return {**args, **sides}


def _of_frames(x: Tensor | None, gather: RowGather, frames: Tensor) -> Tensor | None:
    return None if x is None else gather.once(x, lambda: gather.alone(x, frames))


def _enter(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    return _take({**args, "img": gather.alone(args["img"], gather.rows)}, gather)


COSMOS = Adapter(
    name="Cosmos-Predict2",
    classes=("comfy.ldm.cosmos.predict2.MiniTrainDIT",),
    module_prefix="comfy.ldm.cosmos.",
    positional=(),
    timestep_scale=1.0,
    entry=MODEL,
    runs=(
        BlockRun(
            hook="hidden_block",
            stream=_stream,
            tokens=itemgetter("img"),
            with_tokens=_with_tokens,
            take=_take,
            enter=_enter,
            keys=(heads_first(lambda args: (0, 0)),),
            shadow=Shadow("blocks", _bind, _call, _answer),
        ),
    ),
    facts=_facts,
    layout=grid_of,
    distance=by_input,
    decline=no_reason,
    unfit=_unfit,
    clean=given_clean,
)
