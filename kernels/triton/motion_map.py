from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._tuning import LAUNCH, channel_block, on_device, row_block


@triton.jit(do_not_specialize=["S", "F"])
def motion_map_fwd_kernel(
    features,
    o,
    F,
    S,
    C: tl.constexpr,
    BS: tl.constexpr,
    BC: tl.constexpr,
):
    i_s, i_f, i_b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_s = i_s * BS + tl.arange(0, BS)
    m_s = o_s < S
    # without a frame before it, frame 0 repeats the answer of frame 1
    p_now = features + (i_b * F + tl.maximum(i_f, 1)) * S * C
    p_before = p_now - tl.cast(S, tl.int64) * C
    b_moved = tl.zeros([BS, BC], tl.float32)
    b_size = tl.zeros([BS, BC], tl.float32)
    for i_c in range(0, C, BC):
        o_c = i_c + tl.arange(0, BC)
        m_c = o_c < C
        o_x = o_s.to(tl.int64)[:, None] * C + o_c[None, :]
        m = m_s[:, None] & m_c[None, :]
        # [BS, BC]
        b_now = tl.load(p_now + o_x, mask=m, other=0.0).to(tl.float32)
        b_before = tl.load(p_before + o_x, mask=m, other=0.0).to(tl.float32)
        b_moved += tl.abs(b_now - b_before)
        b_size += tl.abs(b_before)
    b_d = tl.sum(b_moved, axis=1) / (tl.sum(b_size, axis=1) + C * 1e-8)
    tl.store(o + (i_b * F + i_f) * S + o_s, b_d, mask=m_s)


def motion_map(features: Tensor) -> Tensor:
    batch, frames, tokens, channels = features.shape
    result = features.new_empty((batch, frames, tokens), dtype=torch.float32)
    if frames == 1:
        return result.zero_()
    rows = row_block(channels)
    with on_device(features):
        motion_map_fwd_kernel[(triton.cdiv(tokens, rows), frames, batch)](
            features,
            result,
            frames,
            tokens,
            C=channels,
            BS=rows,
            BC=channel_block(channels),
            num_warps=4,
            **LAUNCH,
        )
    return result
