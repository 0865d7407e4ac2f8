"""What production launches: every op as it is called for Wan, on tensors without memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# the 1.3B and the 14B model run in bf16; fp32 is for those who ask for it
WIDTHS = (("bf16", 1536), ("bf16", 5120), ("fp32", 1536))
# numbers of a head, in both
HEAD = 128
# a rotary table has two by two fp32 numbers for each pair of a head's numbers
ROTARY = 2 * HEAD
# predicted video: 16 latent channels in patches of 2 x 2
LATENT = 64
BATCH = 2
# computed tokens that correct one that is not
NEAR = (8, 45)


@dataclass(frozen=True)
class Clip:
    """81 frames of video.

    Attributes:
        tokens: of each latent frame.
        active: rows of a partial evaluation, a multiple of 128.
    """

    name: str
    tokens: int
    active: int
    frames: int = 21

    @property
    def length(self) -> int:
        return self.frames * self.tokens


CLIPS = (Clip("832x480", 1560, 9856), Clip("1280x720", 3600, 22784))
# 8 divides no array of this length, so that its loads are narrow; kernels of [L] arrays only
ODD = Clip("odd", 1575, 9984)

# op, what is special about this call, arguments
Call = tuple[str, str, tuple[Any, ...]]


def floats(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def ints(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def side_calls(clip: Clip) -> Iterator[Call]:
    """The ops on [L] arrays, and motion of the predicted video: no model's width or dtype."""
    length = clip.length
    distance = floats(1)
    state = floats(length), ints(length), distance
    yield "accumulate_due", "uniform", (*state, None, 1, 0.1, -1.0, 0.0, 0)
    yield "accumulate_due", "vote", (*state, floats(length), clip.frames, 0.1, 0.5, 0.1, 8)
    yield "accumulate_due", "each token", (*state, floats(length), clip.frames, 0.1, -1.0, 0.1, 8)
    yield "select_top", "", (floats(length), ints(1))
    yield "compact_rows", "", (ints(length, dtype=torch.uint8),)
    yield "motion_map", "predicted x0", (floats(BATCH, clip.frames, clip.tokens, LATENT), None)


def wide_calls(clip: Clip, channels: int, dtype: torch.dtype) -> Iterator[Call]:
    """The ops on activations, with a row list that the batch shares."""

    def wide(batch: int, rows: int, width: int = channels) -> Tensor:
        return floats(batch, rows, width, dtype=dtype)

    length, active = clip.length, clip.active
    x = wide(BATCH, length)
    features = floats(BATCH, clip.frames, clip.tokens, channels, dtype=dtype)
    rotary, modulation = floats(1, length, ROTARY), wide(BATCH, clip.frames, 6 * channels)
    codes = floats(BATCH, length, channels, dtype=torch.float8_e4m3fn)
    scale, rate = floats(BATCH, length, channels // HEAD), floats(length)
    yield "motion_map", "features", (features, None)
    yield "motion_map", "frame before", (features, wide(BATCH, clip.tokens))
    yield from listed_calls(clip, channels, dtype, 1)
    # one branch, and a run whose tables were gathered before
    rows, one = ints(1, active), wide(1, length)
    yield "gather_rows", "one sample", (one, rows, rotary, None, 1)
    yield "gather_rows", "tokens alone", (one, rows, None, None, 1)
    yield "gather_rows", "modulation alone", (modulation, rows, None, None, 1)
    keys = ints(BATCH, length, channels, dtype=torch.int8)
    yield "read_kv", "fp8", (codes, codes, scale, scale, dtype, length)
    yield "read_kv", "int8 and fp8", (keys, codes, scale, scale, dtype, length)
    yield "reuse_residual", "", (x, x, None, None)
    yield "reuse_residual", "forecast", (x, x, x, rate)
    idle = length - active
    for near in NEAR:
        nearby = ints(active), ints(idle), ints(idle, near), floats(BATCH, idle, near)
        yield "correct_rows", f"{near} sources", (x, wide(BATCH, active), *nearby)
    yield "store_residual", "", (x, x, x, None, None)
    yield "store_residual", "forecast", (x, x, x, x, rate)


def listed_calls(clip: Clip, channels: int, dtype: torch.dtype, lists: int) -> Iterator[Call]:
    """The ops that take a row list: one for all, or one for each batch row."""
    length, active = clip.length, clip.active
    x, new = (floats(BATCH, n, channels, dtype=dtype) for n in (length, active))
    modulation = floats(BATCH, clip.frames, 6 * channels, dtype=dtype)
    codes = floats(BATCH, length, channels, dtype=torch.float8_e4m3fn)
    scale, rate = floats(BATCH, length, channels // HEAD), floats(length)
    rows, inverse, rotary = ints(lists, active), ints(lists, length), floats(1, length, ROTARY)
    own = "" if lists == 1 else "own lists"
    yield "gather_rows", f"rotary {own}", (x, rows, rotary, None, 1)
    yield "gather_rows", f"modulation {own}", (x, rows, rotary, modulation, clip.tokens)
    yield "scatter_residual", own, (x, new, inverse, x, None, None, None)
    yield "scatter_residual", f"forecast {own}", (x, new, inverse, x, x, rate, rate)
    yield "scatter_kv", own, (new, new, rows, x, x, None, None)
    yield "scatter_kv", f"fp8 {own}", (new, new, rows, codes, codes, scale, scale)
    keys = ints(BATCH, length, channels, dtype=torch.int8)
    yield "scatter_kv", f"int8 and fp8 {own}", (new, new, rows, keys, codes, scale, scale)


def all_calls() -> Iterator[tuple[Clip, str, int, Call]]:
    """Every call with its clip, dtype and width; dtype and width say nothing for [L] arrays."""
    for clip in (*CLIPS, ODD):
        for op, note, arguments in side_calls(clip):
            call = f"{note} odd".strip() if clip is ODD else note
            yield clip, "", 0, (op, call, arguments)
    for clip in CLIPS:
        for kind, channels in WIDTHS:
            for op, note, arguments in wide_calls(clip, channels, DTYPES[kind]):
                yield clip, kind, channels, (op, note.strip(), arguments)
        # a list is read alike at every width
        for op, note, arguments in listed_calls(clip, 1536, torch.bfloat16, BATCH):
            yield clip, "bf16", 1536, (op, note.strip(), arguments)
