from __future__ import annotations

from . import Case, Sizes, inverse_lists, per_token, rows_of


def forecast(sizes: Sizes) -> Case:
    x, residual, slope = (rows_of(sizes, sizes.length) for _ in range(3))
    new, inverse = rows_of(sizes, sizes.count), inverse_lists(sizes)
    gain, rate = per_token(sizes), per_token(sizes)
    # x, residual, y for all; new, residual, slope for the active; slope for the others
    moved = 4 * sizes.nbytes(sizes.length) + 2 * sizes.nbytes(sizes.count)
    return Case(
        "scatter_residual",
        lambda: (x, new, inverse, residual.clone(), slope.clone(), gain, rate),
        moved,
    )


def plain(sizes: Sizes) -> Case:
    x, residual = (rows_of(sizes, sizes.length) for _ in range(2))
    new, inverse = rows_of(sizes, sizes.count), inverse_lists(sizes)
    # x, y for all; new, residual for the active; residual for the others
    moved = 3 * sizes.nbytes(sizes.length) + sizes.nbytes(sizes.count)
    return Case("scatter_residual", lambda: (x, new, inverse, residual.clone()), moved)


CASES = {"": forecast, "plain": plain}
