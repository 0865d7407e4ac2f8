"""CogVideoX 1.0 and 1.5: its blocks have no hook; attention is over text, then video."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

from torch import Tensor

from .adapter import MODEL, Adapter, ModelFacts, given_clean
from .block_stream import Arguments, BlockRun, BlockStream, KeySite, RowGather, Shadow
from .whole_model import by_input, grid_of, no_reason


def _facts(network: Any) -> ModelFacts:
    width, space = int(network.dim), int(network.patch_size)
    hidden = int(network.blocks[0].ff_proj.out_features)
    return ModelFacts(
        width=width,
        blocks=(len(network.blocks),),
        heads=int(network.num_attention_heads),
        key_width=width,
        out_channels=int(network.out_channels),
        patch=(int(network.patch_size_t or 1), space, space),
        image_to_video=int(network.in_channels) > int(network.out_channels),
        row_work=4 * width * width + 2 * width * hidden,
        pair_work=2 * width,
    )


def _bind(
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    **more: Any,
) -> Arguments:
    return {
        "img": hidden_states, "txt": encoder_hidden_states, "pe": image_rotary_emb, "more": more,
    }  # fmt: skip


def _call(
    block: Callable[..., tuple[Tensor, Tensor]], args: Arguments, gather: RowGather | None
) -> Arguments:
    video, text = block(
        hidden_states=args["img"], encoder_hidden_states=args["txt"],
        image_rotary_emb=args["pe"], **args["more"],
    )  # fmt: skip
    return {"img": video, "txt": text}


def _answer(out: Arguments) -> tuple[Tensor, Tensor]:
    return out["img"], out["txt"]


def _with_tokens(args: Mapping[str, Any], tokens: Tensor) -> Arguments:
    return {**args, "img": tokens}


def _take(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    tables = args["pe"]
    return {**args, "pe": None if tables is None else tuple(_rows(t, gather) for t in tables)}


def _rows(table: Tensor, gather: RowGather) -> Tensor:
    """Rows of a table `(L, d)` that all batch rows share."""
    return gather.once(table, lambda: gather.alone(table[None], gather.rows)[0])


def _enter(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    return _take({**args, "img": gather.alone(args["img"], gather.rows)}, gather)


COGVIDEO = Adapter(
    name="CogVideoX",
    classes=("comfy.ldm.cogvideo.model.CogVideoXTransformer3DModel",),
    module_prefix="comfy.ldm.cogvideo.",
    positional=(),
    timestep_scale=1.0,
    entry=MODEL,
    one_list=True,
    runs=(
        BlockRun(
            hook="hidden_block",
            stream=lambda args: BlockStream(args["img"]),
            tokens=itemgetter("img"),
            with_tokens=_with_tokens,
            take=_take,
            enter=_enter,
            keys=(KeySite(around=lambda args: (args["txt"].shape[1], 0)),),
            shadow=Shadow("blocks", _bind, _call, _answer),
        ),
    ),
    facts=_facts,
    layout=grid_of,
    distance=by_input,
    decline=no_reason,
    clean=given_clean,
)
