"""A sum over the first dimension that reads only what has a weight."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def weighted_row(rows, o_n, N, w):
    # a bound of 0 rejects all: a scalar must not be joined to a mask with &
    return w * tl.load(rows + o_n, mask=o_n < tl.where(w != 0.0, N, 0), other=0.0)


@triton.jit
def weighted_sum(rows, o_n, N, w0, w1, w2, w3, K: tl.constexpr):
    """`sum_k w_k * rows[k, o_n]` over K rows of N numbers, which are fp32; N is int64."""
    b_sum = weighted_row(rows, o_n, N, w0)
    if K > 1:
        b_sum += weighted_row(rows + N, o_n, N, w1)
    if K > 2:
        b_sum += weighted_row(rows + 2 * N, o_n, N, w2)
    if K > 3:
        b_sum += weighted_row(rows + 3 * N, o_n, N, w3)
    return b_sum


def four(weights: list[float]) -> list[float]:
    """The weights as kernels take them: arguments, so that nothing is copied to the device."""
    return [*weights, *[0.0] * (4 - len(weights))]
