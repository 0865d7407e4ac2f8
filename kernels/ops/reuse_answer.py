from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import checks
from ..library import FLOATS, define, run_op


@define(
    "(Tensor x, Tensor answers, float[] weights, float sigma) -> Tensor",
    fake=lambda x, *_: x.new_empty(x.shape, dtype=torch.float32),
    kernel_dtypes={"x": FLOATS},
)
def reuse_answer(x: Tensor, answers: Tensor, weights: Sequence[float], sigma: float) -> Tensor:
    """What the model would have answered: `x - sigma * sum_k weights[k] * answers[k]`, in fp32.

    An answer of weight 0 is never read: it may hold anything, NaN included.

    Args:
        x: float of any shape, what the model is asked about.
        answers: [K, *x.shape] float32, K of 1 to 4, see `store_answer`.
        weights: K numbers, on the host.
        sigma: the noise level of x.

    Returns:
        float32 of x's shape.
    """
    op = "reuse_answer"
    numbers = checks.weighted_answers(op, x, answers, weights)
    result: Tensor = run_op(op, x, answers, numbers, float(sigma))
    return result
