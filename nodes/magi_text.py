"""A caption for MAGI-1."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..motioncache_core import UnsupportedModelError
from ..motioncache_core.models.magi1.caption import clean_caption
from ..motioncache_core.models.magi1.special_tokens import (
    DURATIONS,
    MOST_ROWS,
    MOTIONS,
    STYLES,
    duration_rows,
    prefix_rows,
)
from .host.magi_files import special_token_table
from .types import CATEGORY

# what a T5 XXL (v1.1) text encoder calls its tokens, how wide its rows are, what it fills up with
_TOKENS, _WIDTH, _PAD = "t5xxl", 4096, 0
_WHERE = (
    "Load t5xxl_fp16.safetensors (or an fp8 one) with ComfyUI's Load CLIP, type pixart (also "
    "chroma, mochi or ltxv)"
)


class MotionCacheMagiText(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheMagiText",
            display_name="MotionCache Magi Text",
            category=f"{CATEGORY}/sampling",
            description=(
                "A caption for MAGI-1: cleaned as its training captions were, encoded, and with "
                "the model's own rows for quality, style and motion. Needs special_tokens.npz of "
                "MAGI-1 in models/text_encoders."
            ),
            search_aliases=["magi prompt", "magi-1 text encode", "caption"],
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip=(
                        "T5 XXL (v1.1) from Load CLIP with type pixart; chroma, mochi and ltxv "
                        "give the same."
                    ),
                ),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the video shows, in a few plain sentences.",
                ),
                io.Boolean.Input(
                    "clean_text",
                    default=True,
                    tooltip=(
                        "Lower case, no addresses, brackets, serial numbers: as the training "
                        "captions were cleaned. Off also lets (word:1.2) weigh words."
                    ),
                ),
                io.Combo.Input(
                    "style",
                    options=list(STYLES),
                    default="none",
                    tooltip="The model's own mark for 2D or 3D animation.",
                ),
                io.Combo.Input(
                    "motion",
                    options=list(MOTIONS),
                    default="none",
                    tooltip="The model's own mark for first frames that stand still or move.",
                ),
                io.Boolean.Input(
                    "high_quality",
                    default=True,
                    tooltip="The model's own mark for high quality, as published.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="CONDITIONING", tooltip="For MotionCache Magi Sampling."
                )
            ],
        )

    @classmethod
    def execute(
        cls, clip: Any, text: str, clean_text: bool, style: str, motion: str, high_quality: bool
    ) -> io.NodeOutput:
        tokens = clip.tokenize(clean_caption(text) if clean_text else text)
        if set(tokens) != {_TOKENS}:
            raise UnsupportedModelError(
                f"this text encoder gives tokens of {', '.join(sorted(tokens))}; MAGI-1 was "
                f"trained with T5 XXL (v1.1) alone. {_WHERE}"
            )
        table = special_token_table()
        prefix = prefix_rows(table, style, motion, high_quality)[None]
        tokens = {_TOKENS: [_shortened(tokens[_TOKENS][0])]}
        made = []
        for rows, more in clip.encode_from_tokens_scheduled(tokens):
            kept = {name: value for name, value in more.items() if name != "attention_mask"}
            valid = _valid(rows, more.get("attention_mask"), tokens[_TOKENS][0])
            joined = torch.cat((prefix.to(valid), valid), dim=1)[:, :MOST_ROWS]
            made.append([joined, {**kept, DURATIONS: duration_rows(table)}])
        return io.NodeOutput(made)


def _shortened(tokens: list[Any]) -> list[Any]:
    """The first 799 tokens and the end, of a longer caption."""
    if len(tokens) <= MOST_ROWS:
        return tokens
    words = [token for token in tokens if not _fills_up(token)]
    return words if len(words) <= MOST_ROWS else [*words[: MOST_ROWS - 1], words[-1]]


def _fills_up(token: Any) -> bool:
    # the first part of a token is its number, or the vector of an embedding
    return isinstance(token[0], int) and token[0] == _PAD


def _valid(rows: Tensor, mask: Tensor | None, tokens: list[Any]) -> Tensor:
    """Rows `(1, n, 4096)` of words and the end, without those that fill up."""
    if rows.shape[-1] != _WIDTH:
        raise UnsupportedModelError(
            f"this text encoder gives rows of {rows.shape[-1]} numbers; T5 XXL (v1.1), which "
            f"MAGI-1 was trained with, gives {_WIDTH}. {_WHERE}"
        )
    if mask is not None:
        return rows[:, mask[0].bool()]
    if any(map(_fills_up, tokens)):
        raise UnsupportedModelError(
            "this text encoder fills the caption up and does not say where it ends, so the rows "
            f"are not MAGI-1's. {_WHERE}"
        )
    return rows
