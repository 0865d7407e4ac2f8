from __future__ import annotations

from . import Case, Sizes, per_token, rows_of


def forecast(sizes: Sizes) -> Case:
    x, residual, slope = (rows_of(sizes, sizes.length) for _ in range(3))
    gain = per_token(sizes)
    moved = 4 * sizes.nbytes(sizes.length)
    return Case("reuse_residual", lambda: (x, residual, slope, gain), moved)


def plain(sizes: Sizes) -> Case:
    x, residual = (rows_of(sizes, sizes.length) for _ in range(2))
    return Case("reuse_residual", lambda: (x, residual), 3 * sizes.nbytes(sizes.length))


CASES = {"": forecast, "plain": plain}
