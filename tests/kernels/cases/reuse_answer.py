from __future__ import annotations

import torch

from . import Case, Sizes, floats, video


def case(
    sizes: Sizes,
    weights: tuple[float, ...] = (1.9, -1.2, 0.3),
    shape: tuple[int, ...] | None = None,
    dtype: torch.dtype | None = torch.float32,
) -> Case:
    shape = shape or video(sizes)
    x = floats(sizes, *shape, dtype=dtype)
    answers = floats(sizes, len(weights), *shape, dtype=torch.float32)
    read = sum(weight != 0 for weight in weights)
    moved = x.nbytes + (read + 1) * 4 * x.numel()
    return Case("reuse_answer", lambda: (x, answers, list(weights), 0.7), moved, small=True)


def four(sizes: Sizes) -> Case:
    return case(sizes, (1.7, -1.0, 0.0, 0.3), dtype=None)


def one(sizes: Sizes) -> Case:
    """A number a token: their count may be odd."""
    return case(sizes, (1.0,), (sizes.batch, sizes.length), None)


CASES = {"": case, "four": four, "one": one}
