from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from . import Case, Sizes, codes, int8_codes, row_lists, rows_of, scales


def plain(sizes: Sizes) -> Case:
    k_new, v_new = (rows_of(sizes, sizes.count) for _ in range(2))
    k_store, v_store = (rows_of(sizes, sizes.length) for _ in range(2))
    rows = row_lists(sizes)
    return Case(
        "scatter_kv",
        lambda: (k_new, v_new, rows, k_store.clone(), v_store.clone()),
        4 * sizes.nbytes(sizes.count),
    )


def fp8(sizes: Sizes, keys: Callable[[Sizes], Tensor] = codes) -> Case:
    k_new, v_new = (rows_of(sizes, sizes.count) for _ in range(2))
    k_store, v_store = keys(sizes), codes(sizes)
    k_scale, v_scale, rows = scales(sizes), scales(sizes), row_lists(sizes)
    written = sizes.batch * sizes.count * (sizes.channels + 4 * sizes.heads)
    return Case(
        "scatter_kv",
        lambda: (
            *(k_new, v_new, rows, k_store.clone(), v_store.clone()),
            *(k_scale.clone(), v_scale.clone()),
        ),
        2 * sizes.nbytes(sizes.count) + 2 * written,
    )


def int8(sizes: Sizes) -> Case:
    """Keys in int8, values in fp8."""
    return fp8(sizes, int8_codes)


CASES = {"": plain, "fp8": fp8, "int8": int8}
