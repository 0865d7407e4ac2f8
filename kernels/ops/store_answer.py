from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import checks
from ..library import FLOATS, define, run_op


@define(
    "(Tensor x, Tensor x0, Tensor(a!) answers, float[] weights, float own, float sigma, int slot) "
    "-> Tensor",
    fake=lambda x, *_: x.new_empty(x.shape, dtype=torch.float32),
    mutates=("answers",),
    kernel_dtypes={"x": FLOATS, "x0": FLOATS},
)
def store_answer(
    x: Tensor,
    x0: Tensor,
    answers: Tensor,
    weights: Sequence[float],
    own: float,
    sigma: float,
    slot: int,
) -> Tensor:
    """Store what the model answered, and mix it with what it answered before, in one pass.

    With `d = (x - x0) / sigma`, the model's new answer, in fp32:

    1. `y = x0 - sigma * (sum_k weights[k] * answers[k] + own * d)`, with the answers as they were;
       x0 itself where all weights and own are 0.
    2. `answers[slot] = d`.

    An answer of weight 0 is never read: it may hold anything, NaN included.

    Args:
        x: float of any shape, what the model was asked about.
        x0: float of x's shape, the video that it gave.
        answers: [K, *x.shape] float32, K of 1 to 4, in place.
        weights: K numbers, on the host.
        own: the weight of d.
        sigma: the noise level of x, above 0.
        slot: where d goes, 0 to K - 1.

    Returns:
        y, float32 of x's shape.
    """
    op = "store_answer"
    numbers = checks.weighted_answers(op, x, answers, weights, written=True)
    checks.shape(op, "x0", x0, "x's shape", *x.shape)
    checks.device(op, x, x0=x0)
    checks.floating(op, "x0", x0)
    checks.contiguous(op, "x0", x0)
    if not 0.0 < sigma < math.inf:
        raise ValueError(
            f"{op}: sigma is {sigma}; it must be above 0 and finite. Where no noise is left, "
            "x0 says nothing of the model's answer: do not store it."
        )
    checks.between(op, "slot", slot, 0, len(numbers) - 1)
    result: Tensor = run_op(op, x, x0, answers, numbers, float(own), float(sigma), slot)
    return result
