from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._tuning import FLAT_BLOCK, LAUNCH, on_device, side_alignment
from ._weighted_sum import four, weighted_sum


@triton.jit(do_not_specialize=["units", "w0", "w1", "w2", "w3", "sigma"])
def reuse_answer_fwd_kernel(
    x,
    answers,
    o,
    units,
    w0,
    w1,
    w2,
    w3,
    sigma,
    K: tl.constexpr,
    BN: tl.constexpr,
    ALIGN: tl.constexpr,
):
    N = units.to(tl.int64) * ALIGN
    o_n = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    m_n = o_n < N
    b_x = tl.load(x + o_n, mask=m_n, other=0.0).to(tl.float32)
    b_sum = weighted_sum(answers, o_n, N, w0, w1, w2, w3, K)
    tl.store(o + o_n, b_x - sigma * b_sum, mask=m_n)


def reuse_answer(x: Tensor, answers: Tensor, weights: list[float], sigma: float) -> Tensor:
    result = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    length = x.numel()
    if length == 0:
        return result
    align = side_alignment(length)
    with on_device(x):
        reuse_answer_fwd_kernel[(triton.cdiv(length, FLAT_BLOCK),)](
            x,
            answers,
            result,
            length // align,
            *four(weights),
            sigma,
            K=len(weights),
            BN=FLAT_BLOCK,
            ALIGN=align,
            num_warps=4,
            **LAUNCH,
        )
    return result
