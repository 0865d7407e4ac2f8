from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._fp8 import codes, decode, native
from ._tuning import LAUNCH, head_tile, on_device


@triton.jit
def read_codes(b_code, INT8: tl.constexpr, NATIVE: tl.constexpr):
    """Codes -> fp32, exact."""
    if INT8:
        return b_code.to(tl.float32)
    else:
        return decode(b_code, NATIVE)


@triton.jit(do_not_specialize=["L", "n"])
def read_kv_fwd_kernel(
    k_store,
    v_store,
    k_scale,
    v_scale,
    k,
    v,
    L,
    n,
    H: tl.constexpr,
    D: tl.constexpr,
    BH: tl.constexpr,
    BD: tl.constexpr,
    K_INT8: tl.constexpr,
    V_INT8: tl.constexpr,
    NATIVE: tl.constexpr,
):
    i_h, i_b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    # heads of all rows, one after another
    o_h = i_h * BH + tl.arange(0, BH)
    o_d = tl.arange(0, BD)
    m_h = o_h < n * H
    m = m_h[:, None] & (o_d < D)[None, :]
    o_scale = i_b * L * H + o_h
    o_store = o_scale[:, None] * D + o_d[None, :]
    o_x = (i_b * n * H + o_h)[:, None] * D + o_d[None, :]
    # [BH, BD]
    b_k = read_codes(tl.load(k_store + o_store, mask=m, other=0), K_INT8, NATIVE)
    b_k *= tl.load(k_scale + o_scale, mask=m_h, other=0.0)[:, None]
    tl.store(k + o_x, b_k.to(k.dtype.element_ty), mask=m)
    b_v = read_codes(tl.load(v_store + o_store, mask=m, other=0), V_INT8, NATIVE)
    b_v *= tl.load(v_scale + o_scale, mask=m_h, other=0.0)[:, None]
    tl.store(v + o_x, b_v.to(v.dtype.element_ty), mask=m)


def read_kv(
    k_store: Tensor,
    v_store: Tensor,
    k_scale: Tensor,
    v_scale: Tensor,
    dtype: torch.dtype,
    length: int,
) -> tuple[Tensor, Tensor]:
    batch, held, channels = k_store.shape
    k = k_store.new_empty((batch, length, channels), dtype=dtype)
    v = torch.empty_like(k)
    if k.numel() == 0:
        return k, v
    heads = k_scale.shape[2]
    block_h, block_d = head_tile(channels // heads)
    with on_device(k):
        read_kv_fwd_kernel[(triton.cdiv(length * heads, block_h), batch)](
            codes(k_store),
            codes(v_store),
            k_scale,
            v_scale,
            k,
            v,
            held,
            length,
            H=heads,
            D=channels // heads,
            BH=block_h,
            BD=block_d,
            K_INT8=k_store.dtype == torch.int8,
            V_INT8=v_store.dtype == torch.int8,
            NATIVE=native(),
            num_warps=4,
            **LAUNCH,
        )
    return k, v
