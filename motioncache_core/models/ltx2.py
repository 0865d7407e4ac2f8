"""LTX-2: video and sound in streams of their own, which attend to each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..common.reasons import Reason, because
from .adapter import Adapter, ModelFacts
from .block_stream import Arguments, BlockRun, BlockStream, KeySite, RowGather, rows_around
from .joint_stream import padded_layout
from .ltxv import around, decline, distance, guides, rotary

# options by which parts of a block are left out: the attention calls then come in another order
_PARTS = ("run_vx", "run_ax", "a2v_cross_attn", "v2a_cross_attn")
# what goes with the video's rows: timestep modulation, one row for each token or each frame
_BY_ROW = ("v_timestep", "v_cross_scale_shift_timestep", "v_cross_gate_timestep")
# the sound's attention to the video is the last of the six
_SELF, _SOUND_TO_VIDEO = 1, 6


def _facts(network: Any) -> ModelFacts:
    width, sound = int(network.inner_dim), int(network.audio_inner_dim)
    return ModelFacts(
        width=width,
        blocks=(len(network.transformer_blocks),),
        heads=int(network.num_attention_heads),
        # of the two attentions that have keys of the video, on average
        key_width=(width + sound) // 2,
        out_channels=int(network.out_channels),
        patch=(1, 1, 1),
        image_to_video=False,
        # two attentions and the feed-forward layer, and the video's part of two more with sound
        row_work=14 * width * width + 4 * width * sound,
        pair_work=2 * width,
    )


def _decline(arguments: Mapping[str, Any], options: Mapping[str, Any]) -> Reason | None:
    for name in _PARTS:
        if options.get(name, True) is False:
            return because("block_patch", name=name)
    return decline(arguments, options)


def _video(x: Any) -> Tensor:
    # without sound the answer is the video alone
    video: Tensor = x if isinstance(x, Tensor) else x[0]
    return video


def _tokens(args: Mapping[str, Any]) -> Tensor:
    tokens: Tensor = args["img"][0]
    return tokens


def _sound(args: Mapping[str, Any]) -> Tensor:
    tokens: Tensor = args["img"][1]
    return tokens


def _stream(args: Mapping[str, Any]) -> BlockStream:
    # rows at levels of their own, or not
    variant = (min(2, args["v_timestep"].data.shape[1]),)
    return BlockStream(_tokens(args), *rows_around(args), variant=variant)


def _with_tokens(args: Mapping[str, Any], tokens: Tensor) -> Arguments:
    return {**args, "img": (tokens, _sound(args))}


def _with_sound(args: Mapping[str, Any], sound: Tensor) -> Arguments:
    return {**args, "img": (_tokens(args), sound)}


def _timestep(held: Any, gather: RowGather, around: tuple[int, int]) -> Any:
    """The host's timesteps, which may be kept once a frame, for the active rows."""
    if held is None or held.data.shape[1] == 1:
        return held

    def chosen() -> Any:
        rows = gather.around(*around)
        # padding stays negative
        of_frames = rows if held.patches_per_frame == 1 else rows // held.patches_per_frame
        return type(held)(gather.alone(held.data, of_frames), None)

    return gather.once(held.data, chosen)


def _take(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    around = rows_around(args)
    steps = {name: _timestep(args[name], gather, around) for name in _BY_ROW}
    return {
        **args,
        **steps,
        "v_pe": rotary(args["v_pe"], gather, args),
        "v_cross_pe": rotary(args["v_cross_pe"], gather, args),
        "self_attention_mask": guides(args.get("self_attention_mask"), gather),
    }


def _enter(args: Mapping[str, Any], gather: RowGather) -> Arguments:
    rows = gather.around(*rows_around(args))
    return _take(_with_tokens(args, gather.alone(_tokens(args), rows)), gather)


LTX2 = Adapter(
    name="LTX-2",
    classes=("comfy.ldm.lightricks.av_model.LTXAVModel",),
    module_prefix="comfy.ldm.lightricks.",
    positional=(
        "context", "attention_mask", "frame_rate", "transformer_options", "keyframe_idxs",
    ),
    timestep_scale=1.0,
    runs=(
        BlockRun(
            hook="double_block",
            stream=_stream,
            tokens=_tokens,
            with_tokens=_with_tokens,
            take=_take,
            enter=_enter,
            keys=(
                KeySite(_SELF, around=rows_around, mask=True),
                KeySite(_SOUND_TO_VIDEO, around=rows_around),
            ),
            writes_input=True,
            beside=_sound,
            with_beside=_with_sound,
        ),
    ),
    facts=_facts,
    layout=padded_layout,
    distance=distance,
    decline=_decline,
    video=_video,
    around=around,
    answers_beside=True,
)  # fmt: skip
