"""Which passes of an evaluation look at the same latents, and so at the same motion."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from ..sampling.passes import prompt_of

# rows that latents are known by
_ROWS = 64


class Contents:
    """Numbers the latents that one conditioning is asked about in an evaluation.

    A pass of other latents (a tile, a mirrored picture) decides for itself; one of the same latents
    (with a block left out, for instance) carries out what was decided. What a pass looks at is
    found out when it is first met, which waits for the device where another one came before.
    """

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._seen: dict[Hashable, dict[int, Tensor]] = {}

    def begin(self) -> None:
        """The next evaluation begins."""
        self._seen.clear()

    def number(self, key: Hashable, rows: Tensor) -> int:
        """Which latents the pass looks at, from 0.

        Args:
            key: the name of the pass.
            rows: its tokens `(b, L, C)` before the first block.
        """
        seen = self._seen.setdefault(prompt_of(key), {})
        sample = rows[:, :: max(1, rows.shape[1] // _ROWS)]
        if key not in self._numbers:
            alike = (n for n, other in seen.items() if _same(other, sample))
            self._numbers[key] = next(alike, max(seen, default=-1) + 1)
        number = self._numbers[key]
        if number not in seen:
            # a view would keep the whole tensor
            seen[number] = sample.clone()
        return number


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second)
