"""The families of LTX, for `families.py`."""

from __future__ import annotations

from typing import Any

import torch
from motioncache_pack.motioncache_core.models.ltx2 import LTX2
from motioncache_pack.motioncache_core.models.ltxv import LTXV
from motioncache_pack.tests.support import toy_ltx
from motioncache_pack.tests.support.family import Call, Family
from torch import Tensor

SIZE = (3, 3, 4)
FRAME = SIZE[1] * SIZE[2]


def ltx(
    sound: bool = False,
    *,
    guides: int = 0,
    left_out: int = 0,
    bias: float = 0.0,
    levels: int = 0,
    batch: int = 1,
) -> Family:
    """A family with or without sound.

    Args:
        guides: latent frames behind the video.
        left_out: rows of those that are not there.
        bias: of the attention between video and guides.
        levels: rows, or frames, that have timesteps of their own.
    """
    network = (toy_ltx.LTXAVModel if sound else toy_ltx.LTXVModel)()
    frames, tokens = SIZE[0] + guides, SIZE[0] * FRAME
    behind = guides * FRAME - left_out

    def call(step: int, prompt: int) -> Call:
        rng = torch.Generator().manual_seed(step)
        x: Any = torch.randn(batch, toy_ltx.CHANNELS, frames, *SIZE[1:], generator=rng)
        if sound:
            x = [x, torch.randn(batch, 7, toy_ltx.SOUND, generator=rng)]
        fixed = torch.Generator().manual_seed(90 + prompt)
        words = torch.randn(batch, 5, toy_ltx.TEXT, generator=fixed)
        more: dict[str, Any] = {}
        if guides:
            places = torch.arange(guides * FRAME).float() % FRAME
            more["keyframe_idxs"] = places[None, None, :, None].expand(batch, 3, -1, 2)
            more["left_out"] = [tokens + 2 * i for i in range(left_out)]
            more["bias"] = bias
        if levels:
            share = 1 - torch.arange(levels).float() % 5 / 8
            more["levels"] = share[None, :, None].expand(batch, -1, -1)
        return Call(x, torch.full((batch,), 0.95 - 0.08 * step), words, more)

    def video_in(_: str, stream: Any, __: Call) -> Tensor:
        return first(stream)[:, :tokens]

    def held(_: str, stream: Any, __: Call) -> Tensor:
        return first(stream)[:, tokens:]

    return Family(
        LTX2 if sound else LTXV, network, tokens, call,
        tuple(("double_block", i) for i in range(3)), video_in, lambda keys, _: keys[:, :tokens],
        sites=(1, 6) if sound else (1,), held=held if behind and not sound else None,
    )  # fmt: skip


def first(stream: Any) -> Tensor:
    """The video's part of what goes through the blocks."""
    tokens: Tensor = stream if isinstance(stream, Tensor) else stream[0]
    return tokens


LTX_FAMILIES = {
    "ltx video": ltx,
    "ltx video, rows at levels of their own": lambda: ltx(levels=3 * FRAME),
    "ltx video, two clips": lambda: ltx(batch=2, levels=3 * FRAME),
    "ltx video, guides": lambda: ltx(guides=2),
    "ltx video, few rows of guides": lambda: ltx(guides=2, left_out=5),
    "ltx video, weak guides": lambda: ltx(guides=1, bias=-0.7),
    "ltx 2": lambda: ltx(sound=True),
    "ltx 2, two clips": lambda: ltx(sound=True, batch=2),
    "ltx 2, frames at levels of their own": lambda: ltx(sound=True, levels=3),
    "ltx 2, rows at levels of their own": lambda: ltx(sound=True, levels=3 * FRAME),
    "ltx 2, weak guides": lambda: ltx(sound=True, guides=1, bias=-0.7),
}
