"""What families share whose attention is over text and video together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from .block_stream import KeySite, RowGather


def heads_first(around: Callable[[Mapping[str, Any]], tuple[int, int]], call: int = 1) -> KeySite:
    """An attention call whose keys come as `(B, H, S, D)`, a mask over them allowed."""
    return KeySite(
        call=call,
        around=around,
        flat=lambda keys: keys.transpose(1, 2).flatten(2),
        shaped=lambda keys, host: keys.unflatten(2, (host.shape[1], -1)).transpose(1, 2),
        mask=True,
    )


def rows_of_table(table: Tensor, gather: RowGather, before: int, behind: int = 0) -> Tensor:
    """Rows of a table `(B, 1, S, ...)`, gathered once for all blocks."""

    def chosen() -> Tensor:
        rows = gather.around(before, behind)
        return gather.alone(table[:, 0], rows)[:, None]

    return gather.once(table, chosen)
