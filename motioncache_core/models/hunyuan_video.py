"""HunyuanVideo 1.0 and 1.5 (and SkyReels-V1, which has the network of 1.0)."""

from __future__ import annotations

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
from .joint_stream import check_video, heads_first, rows_of_table

# channels of the latent, its upsampled image and their mask: the super-resolution model
_UPSCALER_CHANNELS = 98


def _facts(network: Any) -> ModelFacts:
    patch, width = tuple(int(n) for n in network.patch_size), int(network.hidden_size)
    return ModelFacts(
        width=width,
        blocks=(len(network.double_blocks), len(network.single_blocks)),
        heads=int(network.num_heads),
        key_width=width,
        out_channels=int(network.out_channels),
        patch=(patch[0], patch[1], patch[2]),
        image_to_video=int(network.in_channels) > int(network.out_channels),
        # four projections and the feed-forward layer, four times as wide, in both kinds of blocks
        row_work=12 * width * width,
        pair_work=2 * width,
    )


def _layout(facts: ModelFacts, x: Tensor) -> TokenLayout:
    check_video(x)
    frames, height, width = (n // p for n, p in zip(x.shape[2:], facts.patch, strict=True))
    return TokenLayout(frames, height, width)


def _distance(facts: ModelFacts, layout: TokenLayout, clamp: bool) -> DistanceSource:
    return InputChange()


def _around(facts: ModelFacts, layout: TokenLayout, arguments: Mapping[str, Any]) -> Around:
    before, reference = 0, arguments.get("ref_latent")
    if reference is not None:
        frames, height, width = (
            n // p for n, p in zip(reference.shape[2:], facts.patch, strict=True)
        )
        before = frames * height * width
    # token replace: the first frame is the given image, at a timestep of its own. The host tells
    # its rows by their place, so all of them have to be there
    first = int(arguments.get("guiding_frame_index") is not None and layout.frames > 1)
    return Around(before + first * layout.spatial, first=first)


def _unfit(network: Any) -> Reason | None:
    if len(network.patch_size) != 3:
        why = phrase("this one makes images")
    elif int(network.in_channels) == _UPSCALER_CHANNELS:
        why = phrase("the upscaling model takes a few steps")
    else:
        return None
    return because("model_variant", name=type(network).__name__, why=why)


def _decline(arguments: Mapping[str, Any], options: Mapping[str, Any]) -> Reason | None:
    return None if arguments.get("control") is None else because("control_net")


def _with_tokens(args: Mapping[str, Any], tokens: Tensor) -> Arguments:
    return {**args, "img": tokens}


def _text_rows(args: Mapping[str, Any]) -> int:
    """Rows of text, in a block of either kind."""
    if "txt" in args:
        return int(args["txt"].shape[1])
    return int(args["transformer_options"]["img_slice"][0])


def _in_keys(args: Mapping[str, Any]) -> tuple[int, int]:
    return _text_rows(args) + rows_around(args)[0], 0


def _take(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    # ranges of modulation end with rows that are all there, and stay as they are
    return {**args, "pe": rows_of_table(args["pe"], gather, _in_keys(args)[0])}


def _double(args: Mapping[str, Any]) -> BlockStream:
    return BlockStream(args["img"], before=rows_around(args)[0])


def _single(args: Mapping[str, Any]) -> BlockStream:
    return BlockStream(args["img"], before=_in_keys(args)[0])


def _enter_double(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    rows = gather.around(*rows_around(args))
    return _take({**args, "img": gather.alone(args["img"], rows)}, gather)


def _enter_single(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    rows = gather.around(*_in_keys(args))
    return _take({**args, "img": gather.alone(args["img"], rows)}, gather)


HUNYUAN_VIDEO = Adapter(
    name="HunyuanVideo",
    classes=("comfy.ldm.hunyuan_video.model.HunyuanVideo",),
    module_prefix="comfy.ldm.hunyuan_video.",
    positional=(
        "context", "y", "txt_byt5", "clip_fea", "guidance", "attention_mask",
        "guiding_frame_index", "ref_latent", "disable_time_r", "control", "transformer_options",
    ),
    timestep_scale=1000.0,
    runs=(
        BlockRun(
            hook="double_block",
            stream=_double,
            tokens=itemgetter("img"),
            with_tokens=_with_tokens,
            take=_take,
            enter=_enter_double,
            keys=(heads_first(_in_keys),),
            writes_input=True,
        ),
        BlockRun(
            hook="single_block",
            stream=_single,
            tokens=itemgetter("img"),
            with_tokens=_with_tokens,
            take=_take,
            enter=_enter_single,
            keys=(heads_first(_in_keys),),
            writes_input=True,
        ),
    ),
    facts=_facts,
    layout=_layout,
    distance=_distance,
    decline=_decline,
    unfit=_unfit,
    patches=("attn1_patch", "attn1_output_patch", "attn2_patch"),
    around=_around,
)  # fmt: skip
