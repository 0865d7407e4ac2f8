from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._tuning import LAUNCH, channel_block, on_device, row_block


@triton.jit(do_not_specialize=["L", "n"])
def gather_rows_fwd_kernel(
    x,
    rows,
    o,
    L,
    n,
    divisor,
    C: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    SHARED_X: tl.constexpr,
    SHARED_ROWS: tl.constexpr,
):
    i_n, i_c, i_b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_n = i_n * BM + tl.arange(0, BM)
    o_c = i_c * BC + tl.arange(0, BC)
    m_n = o_n < n
    m_c = o_c < C
    p_rows = rows if SHARED_ROWS else rows + i_b * n
    p_x = x if SHARED_X else x + i_b * L * C
    b_row = tl.load(p_rows + o_n, mask=m_n, other=-1)
    m_x = (b_row >= 0)[:, None] & m_c[None, :]
    b_from = tl.where(b_row >= 0, b_row // divisor, 0).to(tl.int64)
    # [BM, BC]
    b_x = tl.load(p_x + b_from[:, None] * C + o_c[None, :], mask=m_x, other=0.0)
    p_o = o + (i_b * n + o_n)[:, None] * C + o_c[None, :]
    tl.store(p_o, b_x, mask=m_n[:, None] & m_c[None, :])


def gather_rows(x: Tensor, rows: Tensor, divisor: int) -> Tensor:
    batch, length, channels = x.shape
    lists, count = rows.shape
    result = x.new_empty((max(batch, lists), count, channels))
    if result.numel() == 0:
        return result
    block_m, block_c = row_block(channels), channel_block(channels)
    grid = (triton.cdiv(count, block_m), triton.cdiv(channels, block_c), result.shape[0])
    with on_device(x):
        gather_rows_fwd_kernel[grid](
            x,
            rows,
            result,
            length,
            count,
            divisor,
            C=channels,
            BM=block_m,
            BC=block_c,
            SHARED_X=batch == 1,
            SHARED_ROWS=lists == 1,
            num_warps=4,
            **LAUNCH,
        )
    return result
