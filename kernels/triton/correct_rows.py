from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._tuning import LAUNCH, channel_block, on_device, row_block


@triton.jit(do_not_specialize=["L", "n", "m"])
def correct_rows_fwd_kernel(
    pred,
    new,
    rows,
    targets,
    sources,
    weight,
    o,
    L,
    n,
    m,
    C: tl.constexpr,
    K: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    i_t, i_c, i_b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_t = i_t * BM + tl.arange(0, BM)
    o_c = i_c * BC + tl.arange(0, BC)
    m_t = o_t < m
    m_c = o_c < C
    m_o = m_t[:, None] & m_c[None, :]
    p_sources = sources + o_t.to(tl.int64) * K
    p_weight = weight + (i_b * m + o_t) * K
    b_token = tl.load(targets + o_t, mask=m_t, other=0)
    # [BM, BC]
    b_y = tl.load(pred + (i_b * L + b_token)[:, None] * C + o_c[None, :], mask=m_o, other=0.0)
    b_y = b_y.to(tl.float32)
    for k in range(K):
        b_slot = tl.load(p_sources + k, mask=m_t, other=-1)
        m_s = b_slot >= 0
        b_place = tl.where(m_s, b_slot, 0)
        b_row = tl.load(rows + b_place, mask=m_s, other=0)
        # masked loads skip what a source that is not there would ask for
        b_w = tl.load(p_weight + k, mask=m_s, other=0.0)
        m_x = m_s[:, None] & m_c[None, :]
        b_new = tl.load(new + (i_b * n + b_place)[:, None] * C + o_c[None, :], mask=m_x, other=0.0)
        b_old = tl.load(pred + (i_b * L + b_row)[:, None] * C + o_c[None, :], mask=m_x, other=0.0)
        b_y += b_w[:, None] * (b_new.to(tl.float32) - b_old.to(tl.float32))
    p_o = o + (i_b * m + o_t)[:, None] * C + o_c[None, :]
    tl.store(p_o, b_y.to(o.dtype.element_ty), mask=m_o)


def correct_rows(
    pred: Tensor, new: Tensor, rows: Tensor, targets: Tensor, sources: Tensor, weight: Tensor
) -> Tensor:
    batch, length, channels = pred.shape
    count = targets.shape[0]
    result = pred.new_empty((batch, count, channels))
    if result.numel() == 0:
        return result
    # two tiles and their addresses are live in the loop: half as many rows keep all registers
    block_m, block_c = max(1, row_block(channels) // 2), channel_block(channels)
    grid = (triton.cdiv(count, block_m), triton.cdiv(channels, block_c), batch)
    with on_device(pred):
        correct_rows_fwd_kernel[grid](
            pred,
            new,
            rows,
            targets,
            sources,
            weight,
            result,
            length,
            new.shape[1],
            count,
            C=channels,
            K=sources.shape[1],
            BM=block_m,
            BC=block_c,
            num_warps=4,
            **LAUNCH,
        )
    return result
