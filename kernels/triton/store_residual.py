from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._tuning import LAUNCH, channel_block, on_device, row_block


@triton.jit(do_not_specialize=["L"])
def store_residual_fwd_kernel(
    x,
    y,
    residual,
    slope,
    inverse_interval,
    L,
    C: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    FORECAST: tl.constexpr,
):
    i_l, i_c, i_b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_l = i_l * BM + tl.arange(0, BM)
    o_c = i_c * BC + tl.arange(0, BC)
    m_l, m_c = o_l < L, o_c < C
    m = m_l[:, None] & m_c[None, :]
    o_x = (i_b * L + o_l)[:, None] * C + o_c[None, :]
    # [BM, BC]
    b_r = tl.load(y + o_x, mask=m, other=0.0).to(tl.float32)
    b_r -= tl.load(x + o_x, mask=m, other=0.0).to(tl.float32)
    if FORECAST:
        b_rate = tl.load(inverse_interval + o_l, mask=m_l, other=0.0)
        # at an unchanged noise level there is nothing to learn a slope from
        m_moved = (b_rate != 0.0)[:, None] & m_c[None, :]
        b_before = tl.load(residual + o_x, mask=m_moved, other=0.0).to(tl.float32)
        b_slope = (b_r - b_before) * b_rate[:, None]
        tl.store(slope + o_x, b_slope.to(slope.dtype.element_ty), mask=m_moved)
    tl.store(residual + o_x, b_r.to(residual.dtype.element_ty), mask=m)


def store_residual(
    x: Tensor,
    y: Tensor,
    residual: Tensor,
    slope: Tensor | None,
    inverse_interval: Tensor | None,
) -> None:
    batch, length, channels = x.shape
    if x.numel() == 0:
        return
    block_m, block_c = row_block(channels), channel_block(channels)
    grid = (triton.cdiv(length, block_m), triton.cdiv(channels, block_c), batch)
    with on_device(x):
        store_residual_fwd_kernel[grid](
            x,
            y,
            residual,
            slope,
            inverse_interval,
            length,
            C=channels,
            BM=block_m,
            BC=block_c,
            FORECAST=slope is not None,
            num_warps=4,
            **LAUNCH,
        )
