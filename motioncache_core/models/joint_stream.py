"""What families share whose attention is over text and video together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..common.errors import CacheShapeError
from ..common.token_layout import TokenLayout
from .adapter import ModelFacts
from .block_stream import KeySite, RowGather


def heads_first(
    around: Callable[[Mapping[str, Any]], tuple[int, int]], several_callers: bool = False
) -> KeySite:
    """An attention call, a block's first, whose keys come as `(B, H, S, D)`, a mask over them
    allowed."""
    return KeySite(
        around=around,
        several_callers=several_callers,
        flat=lambda keys: keys.transpose(1, 2).flatten(2),
        shaped=lambda keys, host: keys.unflatten(2, (host.shape[1], -1)).transpose(1, 2),
        mask=True,
    )


def padded_layout(facts: ModelFacts, x: Tensor) -> TokenLayout:
    """The grid of a latent `(B, C, F, H, W)` that the network pads to whole patches.

    Raises:
        CacheShapeError: it is no video.
    """
    check_video(x)
    frames, height, width = (
        -(-size // step) for size, step in zip(x.shape[2:], facts.patch, strict=True)
    )
    return TokenLayout(frames, height, width)


def check_video(x: Tensor) -> None:
    """A latent has to be `(B, C, F, H, W)`.

    Raises:
        CacheShapeError: it is not.
    """
    if x.ndim != 5:
        raise CacheShapeError(
            f"the latent has shape {tuple(x.shape)}; a video model takes (batch, channels, frames, "
            "height, width). Use an empty video latent instead of an image latent"
        )


def rows_of_table(table: Tensor, gather: RowGather, before: int, behind: int = 0) -> Tensor:
    """Rows of a table `(B, 1, S, ...)`, gathered once for all blocks."""

    def chosen() -> Tensor:
        rows = gather.around(before, behind)
        return gather.alone(table[:, 0], rows)[:, None]

    return gather.once(table, chosen)
