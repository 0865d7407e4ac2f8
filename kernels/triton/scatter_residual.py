from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._tuning import LAUNCH, channel_block, on_device, row_block


@triton.jit(do_not_specialize=["L", "n"])
def scatter_residual_fwd_kernel(
    x,
    new,
    inverse,
    residual,
    slope,
    gain,
    inverse_interval,
    o,
    L,
    n,
    C: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    SHARED_ROWS: tl.constexpr,
    FORECAST: tl.constexpr,
):
    i_l, i_c, i_b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_l = i_l * BM + tl.arange(0, BM)
    o_c = i_c * BC + tl.arange(0, BC)
    m_l = o_l < L
    m_c = o_c < C
    p_inverse = inverse if SHARED_ROWS else inverse + i_b * L
    b_slot = tl.load(p_inverse + o_l, mask=m_l, other=-1)
    b_active = b_slot >= 0
    m = m_l[:, None] & m_c[None, :]
    m_new = b_active[:, None] & m_c[None, :]
    o_x = (i_b * L + o_l)[:, None] * C + o_c[None, :]
    o_new = (i_b * n + tl.where(b_active, b_slot, 0))[:, None] * C + o_c[None, :]
    # [BM, BC]; masked loads skip what a row does not need
    b_x = tl.load(x + o_x, mask=m, other=0.0).to(tl.float32)
    b_new = tl.load(new + o_new, mask=m_new, other=0.0).to(tl.float32)
    if FORECAST:
        b_r = tl.load(residual + o_x, mask=m, other=0.0).to(tl.float32)
        b_gain = tl.load(gain + o_l, mask=m_l, other=0.0)
        m_old = m & (b_slot < 0)[:, None]
        b_slope = tl.load(slope + o_x, mask=m_old, other=0.0).to(tl.float32)
        b_reused = b_x + b_r + b_gain[:, None] * b_slope
        b_rate = tl.load(inverse_interval + o_l, mask=b_active, other=0.0)
        b_moved = ((b_new - b_x) - b_r) * b_rate[:, None]
        m_moved = m_new & (b_rate != 0.0)[:, None]
        tl.store(slope + o_x, b_moved.to(slope.dtype.element_ty), mask=m_moved)
    else:
        m_old = m & (b_slot < 0)[:, None]
        b_reused = b_x + tl.load(residual + o_x, mask=m_old, other=0.0).to(tl.float32)
    tl.store(residual + o_x, (b_new - b_x).to(residual.dtype.element_ty), mask=m_new)
    b_y = tl.where(b_active[:, None], b_new, b_reused)
    tl.store(o + o_x, b_y.to(o.dtype.element_ty), mask=m)


def scatter_residual(
    x: Tensor,
    new: Tensor,
    inverse: Tensor,
    residual: Tensor,
    slope: Tensor | None,
    gain: Tensor | None,
    inverse_interval: Tensor | None,
) -> Tensor:
    batch, length, channels = x.shape
    result = torch.empty_like(x)
    block_m, block_c = row_block(channels), channel_block(channels)
    grid = (triton.cdiv(length, block_m), triton.cdiv(channels, block_c), batch)
    with on_device(x):
        scatter_residual_fwd_kernel[grid](
            x,
            new,
            inverse,
            residual,
            slope,
            gain,
            inverse_interval,
            result,
            length,
            new.shape[1],
            C=channels,
            BM=block_m,
            BC=block_c,
            SHARED_ROWS=inverse.shape[0] == 1,
            FORECAST=slope is not None,
            num_warps=4,
            **LAUNCH,
        )
    return result
