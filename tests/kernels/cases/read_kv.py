from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from . import Case, Sizes, codes, int8_codes, scales


def fp8(sizes: Sizes, keys: Callable[[Sizes], Tensor] = codes) -> Case:
    given = (keys(sizes), codes(sizes), scales(sizes), scales(sizes))
    read = sizes.batch * sizes.length * (sizes.channels + 4 * sizes.heads)
    named = {"dtype": sizes.dtype, "length": sizes.length}
    moved = 2 * read + 2 * sizes.nbytes(sizes.length)
    return Case("read_kv", lambda: given, moved, named)


def int8(sizes: Sizes) -> Case:
    """Keys in int8, values in fp8."""
    return fp8(sizes, int8_codes)


CASES = {"": fp8, "int8": int8}
