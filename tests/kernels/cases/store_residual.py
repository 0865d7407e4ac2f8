from __future__ import annotations

from . import Case, Sizes, per_token, rows_of


def forecast(sizes: Sizes) -> Case:
    x, y, residual, slope = (rows_of(sizes, sizes.length) for _ in range(4))
    rate = per_token(sizes)
    moved = 5 * sizes.nbytes(sizes.length)
    return Case("store_residual", lambda: (x, y, residual.clone(), slope.clone(), rate), moved)


def plain(sizes: Sizes) -> Case:
    x, y, residual = (rows_of(sizes, sizes.length) for _ in range(3))
    moved = 3 * sizes.nbytes(sizes.length)
    return Case("store_residual", lambda: (x, y, residual.clone()), moved)


CASES = {"": forecast, "plain": plain}
