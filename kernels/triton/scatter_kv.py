from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._tuning import LAUNCH, channel_block, on_device, row_block


@triton.jit(do_not_specialize=["L", "n"])
def scatter_kv_fwd_kernel(
    k_new,
    v_new,
    rows,
    k_store,
    v_store,
    L,
    n,
    C: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    SHARED_ROWS: tl.constexpr,
):
    i_n, i_c, i_b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_n = i_n * BM + tl.arange(0, BM)
    o_c = i_c * BC + tl.arange(0, BC)
    m_n = o_n < n
    p_rows = rows if SHARED_ROWS else rows + i_b * n
    b_row = tl.load(p_rows + o_n, mask=m_n, other=-1)
    m = (b_row >= 0)[:, None] & (o_c < C)[None, :]
    o_new = (i_b * n + o_n)[:, None] * C + o_c[None, :]
    o_store = (i_b * L + tl.where(b_row >= 0, b_row, 0))[:, None] * C + o_c[None, :]
    # [BM, BC]
    b_k = tl.load(k_new + o_new, mask=m, other=0.0).to(tl.float32)
    tl.store(k_store + o_store, b_k.to(k_store.dtype.element_ty), mask=m)
    b_v = tl.load(v_new + o_new, mask=m, other=0.0).to(tl.float32)
    tl.store(v_store + o_store, b_v.to(v_store.dtype.element_ty), mask=m)


def scatter_kv(
    k_new: Tensor, v_new: Tensor, rows: Tensor, k_store: Tensor, v_store: Tensor
) -> None:
    batch, count, channels = k_new.shape
    if k_new.numel() == 0:
        return
    block_m, block_c = row_block(channels), channel_block(channels)
    grid = (triton.cdiv(count, block_m), triton.cdiv(channels, block_c), batch)
    with on_device(k_new):
        scatter_kv_fwd_kernel[grid](
            k_new,
            v_new,
            rows,
            k_store,
            v_store,
            k_store.shape[1],
            count,
            C=channels,
            BM=block_m,
            BC=block_c,
            SHARED_ROWS=rows.shape[0] == 1,
            num_warps=4,
            **LAUNCH,
        )
