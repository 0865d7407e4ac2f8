from __future__ import annotations

import torch

from . import Case, Sizes, floats, video


def case(
    sizes: Sizes,
    weights: tuple[float, ...] = (0.2, -0.5, 0.1),
    slot: int = 2,
    shape: tuple[int, ...] | None = None,
    dtype: torch.dtype | None = torch.float32,
) -> Case:
    shape = shape or video(sizes)
    x, x0 = (floats(sizes, *shape, dtype=dtype) for _ in range(2))
    answers = floats(sizes, len(weights), *shape, dtype=torch.float32)
    read = sum(weight != 0 for weight in weights)
    # the result and the slot are written
    moved = x.nbytes + x0.nbytes + (read + 2) * 4 * x.numel()
    return Case(
        "store_answer",
        lambda: (x, x0, answers.clone(), list(weights), -0.4, 0.7, slot),
        moved,
        small=True,
    )


def four(sizes: Sizes) -> Case:
    return case(sizes, (0.2, 0.0, -0.5, 0.1), 1, dtype=None)


def one(sizes: Sizes) -> Case:
    """A number a token: their count may be odd."""
    return case(sizes, (0.3,), 0, (sizes.batch, sizes.length), None)


CASES = {"": case, "four": four, "one": one}
