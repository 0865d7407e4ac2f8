"""Long passes cut into pieces, so that temporaries stay small."""

from __future__ import annotations

from torch import Tensor

# numbers in temporaries at a time. On a CPU they stay in the cache, and in memory that the process
# has already: a page that is new from the system costs more than the arithmetic on it
ON_CPU = 1 << 19
# elsewhere each piece costs launches
ELSEWHERE = 1 << 26


def pieces(length: int, numbers: int, like: Tensor) -> list[slice]:
    """Slices of `length` rows, whose temporaries take `numbers` a row, for the device of `like`."""
    limit = ON_CPU if like.is_cpu else ELSEWHERE
    step = max(1, limit // max(1, numbers))
    return [slice(first, min(first + step, length)) for first in range(0, length, step)]
