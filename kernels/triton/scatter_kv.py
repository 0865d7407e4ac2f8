from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._fp8 import codes, encode, native
from ._tuning import LAUNCH, channel_block, head_tile, on_device, row_block


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


@triton.jit
def store_heads(b_x, p_store, p_scale, m, m_h, INT8: tl.constexpr, NATIVE: tl.constexpr):
    """Store heads [BH, BD] as codes, and their scales [BH]."""
    # as integers, sizes have the order of the numbers, and a NaN is the largest
    b_size = b_x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    b_amax = tl.max(b_size, axis=1).to(tl.float32, bitcast=True)
    # below 2^-100 the reciprocal would overflow
    LARGEST: tl.constexpr = 127.0 if INT8 else 448.0
    b_amax = tl.where(b_amax < 7.888609052210118e-31, LARGEST, b_amax)
    tl.store(p_scale, tl.div_rn(b_amax, LARGEST), mask=m_h)
    b_y = b_x * tl.div_rn(LARGEST, b_amax)[:, None]
    if INT8:
        # numbers of this size have steps of 1, so the sum is rounded to nearest even
        b_y = (b_y + 12582912.0) - 12582912.0
        tl.store(p_store, tl.where(b_y == b_y, b_y, 0.0).to(tl.int8), mask=m)
    else:
        tl.store(p_store, encode(b_y, NATIVE), mask=m)


@triton.jit(do_not_specialize=["L", "n"])
def scatter_kv_8bit_fwd_kernel(
    k_new,
    v_new,
    rows,
    k_store,
    v_store,
    k_scale,
    v_scale,
    L,
    n,
    H: tl.constexpr,
    D: tl.constexpr,
    BH: tl.constexpr,
    BD: tl.constexpr,
    SHARED_ROWS: tl.constexpr,
    K_INT8: tl.constexpr,
    V_INT8: tl.constexpr,
    NATIVE: tl.constexpr,
):
    i_h, i_b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    # heads of all new rows, one after another
    o_h = i_h * BH + tl.arange(0, BH)
    o_d = tl.arange(0, BD)
    o_n = o_h // H
    p_rows = rows if SHARED_ROWS else rows + i_b * n
    b_row = tl.load(p_rows + o_n, mask=o_n < n, other=-1)
    m_h = b_row >= 0
    m = m_h[:, None] & (o_d < D)[None, :]
    o_new = (i_b * n * H + o_h)[:, None] * D + o_d[None, :]
    o_scale = (i_b * L + tl.where(m_h, b_row, 0)) * H + o_h % H
    o_store = o_scale[:, None] * D + o_d[None, :]
    # [BH, BD]
    b_k = tl.load(k_new + o_new, mask=m, other=0.0).to(tl.float32)
    store_heads(b_k, k_store + o_store, k_scale + o_scale, m, m_h, K_INT8, NATIVE)
    b_v = tl.load(v_new + o_new, mask=m, other=0.0).to(tl.float32)
    store_heads(b_v, v_store + o_store, v_scale + o_scale, m, m_h, V_INT8, NATIVE)


def scatter_kv(
    k_new: Tensor,
    v_new: Tensor,
    rows: Tensor,
    k_store: Tensor,
    v_store: Tensor,
    k_scale: Tensor | None,
    v_scale: Tensor | None,
) -> None:
    batch, count, channels = k_new.shape
    if k_new.numel() == 0:
        return
    length, shared = k_store.shape[1], rows.shape[0] == 1
    if k_scale is None or v_scale is None:
        block_m, block_c = row_block(channels), channel_block(channels)
        grid = (triton.cdiv(count, block_m), triton.cdiv(channels, block_c), batch)
        with on_device(k_new):
            scatter_kv_fwd_kernel[grid](
                k_new,
                v_new,
                rows,
                k_store,
                v_store,
                length,
                count,
                C=channels,
                BM=block_m,
                BC=block_c,
                SHARED_ROWS=shared,
                num_warps=4,
                **LAUNCH,
            )
        return
    heads = k_scale.shape[2]
    block_h, block_d = head_tile(channels // heads)
    with on_device(k_new):
        scatter_kv_8bit_fwd_kernel[(triton.cdiv(count * heads, block_h), batch)](
            k_new,
            v_new,
            rows,
            codes(k_store),
            codes(v_store),
            k_scale,
            v_scale,
            length,
            count,
            H=heads,
            D=channels // heads,
            BH=block_h,
            BD=block_d,
            SHARED_ROWS=shared,
            K_INT8=k_store.dtype == torch.int8,
            V_INT8=v_store.dtype == torch.int8,
            NATIVE=native(),
            num_warps=4,
            # a product that is not rounded before the next sum would change codes
            enable_fp_fusion=False,
        )
