"""HuMo: in every block each frame's tokens attend to that frame's audio, and are found by their
places."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..common.token_layout import TokenLayout
from .block_stream import QuerySite, RowGather, rows_around
from .wan import BLOCKS
from .wan_variants import reference_behind, variant


def _frames(rows: int, layout: TokenLayout) -> int:
    """Those of the video and of the reference."""
    return max(1, rows // layout.spatial)


def _audio(
    gather: RowGather,
    args: Mapping[str, Any],
    attend: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    **kwargs: Any,
) -> Tensor:
    """The audio's answer to each row from its own frame.

    The host has cut the rows that it got into as many groups as there are frames. They go back to
    their places, so that its groups are the frames: sixteen keys a frame cost next to nothing.

    Args:
        q: `(B * frames, heads, rows / frames, d)`.
        k, v: `(B * frames, heads, words, d)`.
    """
    frames, beside = gather.multiple, rows_around(args)
    groups, heads, rows, width = q.shape
    found = q.transpose(1, 2).reshape(groups // frames, frames * rows, heads * width)
    length = sum(beside) + gather.tokens
    everywhere = gather.spread(
        found.new_zeros(found.shape[0], length, found.shape[2]), found, *beside
    )
    placed = everywhere.reshape(groups, length // frames, heads, width).transpose(1, 2)
    said = attend(placed, k, v, **kwargs).transpose(1, 2)
    kept = gather.alone(said.reshape(found.shape[0], length, -1), gather.around(*beside))
    return kept.reshape(groups, rows, heads, width).transpose(1, 2)


WAN_HUMO = variant(
    "Wan HuMo",
    "model.HumoWanModel",
    around=reference_behind,
    runs=(replace(BLOCKS, queries=(QuerySite(3, _audio),), multiple=_frames),),
)
