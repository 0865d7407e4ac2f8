from __future__ import annotations

import torch
from torch import Tensor

from . import Case, Sizes, floats, row_lists, rows_of


def rotary_table(sizes: Sizes) -> tuple[Tensor, int]:
    """Two by two fp32 numbers for each pair of a head's numbers, and the bytes moved for them."""
    rotary = floats(sizes, 1, sizes.length, 2 * sizes.head_dim, dtype=torch.float32)
    return rotary, 2 * sizes.lists * sizes.count * 4 * rotary.shape[2]


def clip(sizes: Sizes) -> Case:
    """Tokens and their rotary table, as for a clip at one noise level."""
    x, rows, (rotary, moved) = rows_of(sizes, sizes.length), row_lists(sizes), rotary_table(sizes)
    return Case("gather_rows", lambda: (x, rows, rotary), 2 * sizes.nbytes(sizes.count) + moved)


def chunks(sizes: Sizes) -> Case:
    """Tokens, rotary table and the modulation of each token's frame, as for chunks at noise levels
    of their own. The modulation's few rows are read from the cache."""
    x, rows, (rotary, moved) = rows_of(sizes, sizes.length), row_lists(sizes), rotary_table(sizes)
    modulation = rows_of(sizes, sizes.frames, 6 * sizes.channels)
    moved += (2 + 6) * sizes.nbytes(sizes.count) + 6 * sizes.nbytes(sizes.frames)
    named = {"divisor": sizes.tokens}
    return Case("gather_rows", lambda: (x, rows, rotary, modulation), moved, named)


def tokens_alone(sizes: Sizes) -> Case:
    """As in a run whose rotary table was gathered before."""
    x, rows = rows_of(sizes, sizes.length), row_lists(sizes)
    return Case("gather_rows", lambda: (x, rows), 2 * sizes.nbytes(sizes.count))


def modulation_alone(sizes: Sizes) -> Case:
    modulation = rows_of(sizes, sizes.frames, 6 * sizes.channels)
    rows = torch.div(row_lists(sizes), sizes.tokens, rounding_mode="floor")
    moved = 6 * sizes.nbytes(sizes.count)
    return Case("gather_rows", lambda: (modulation, rows), moved)


CASES = {
    "": clip,
    "modulation": chunks,
    "tokens_alone": tokens_alone,
    "modulation_alone": modulation_alone,
}
