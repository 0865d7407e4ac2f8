from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._tuning import LAUNCH, TOKEN_BLOCK, on_device, side_alignment


@triton.jit(do_not_specialize=["units"])
def compact_rows_count_kernel(mask, counts, units, BL: tl.constexpr, ALIGN: tl.constexpr):
    L = units * ALIGN
    i_l = tl.program_id(0)
    o_l = i_l * BL + tl.arange(0, BL)
    b_m = tl.load(mask + o_l, mask=o_l < L, other=0) != 0
    tl.store(counts + i_l, tl.sum(b_m.to(tl.int32), axis=0))


@triton.jit(do_not_specialize=["units", "NB"])
def compact_rows_fill_kernel(
    mask,
    counts,
    rows,
    inverse,
    count,
    units,
    NB,
    BL: tl.constexpr,
    BN: tl.constexpr,
    ALIGN: tl.constexpr,
):
    L = units * ALIGN
    i_l = tl.program_id(0)
    # every program scans the counts itself: no third launch, no atomics, the order stays
    o_n = tl.arange(0, BN)
    b_n = tl.load(counts + o_n, mask=o_n < NB, other=0)
    first = tl.sum(tl.where(o_n < i_l, b_n, 0), axis=0)
    total = tl.sum(b_n, axis=0)
    o_l = i_l * BL + tl.arange(0, BL)
    m_l = o_l < L
    b_m = (tl.load(mask + o_l, mask=m_l, other=0) != 0).to(tl.int32)
    b_slot = first + tl.cumsum(b_m, axis=0) - b_m
    m_set = b_m != 0
    tl.store(rows + b_slot, o_l, mask=m_set)
    tl.store(inverse + o_l, tl.where(m_set, b_slot, -1), mask=m_l)
    # places from the count on are nobody's slot, so each program pads its own range
    tl.store(rows + o_l, tl.full([BL], -1, tl.int32), mask=(o_l >= total) & m_l)
    if i_l == 0:
        tl.store(count, total)


def compact_rows(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    length = mask.shape[0]
    mask = mask.view(torch.uint8)
    programs, align = triton.cdiv(length, TOKEN_BLOCK), side_alignment(length)
    counts = mask.new_empty(programs, dtype=torch.int32)
    rows = mask.new_empty(length, dtype=torch.int32)
    inverse = torch.empty_like(rows)
    count = mask.new_empty(1, dtype=torch.int32)
    with on_device(mask):
        compact_rows_count_kernel[(programs,)](
            mask, counts, length // align, BL=TOKEN_BLOCK, ALIGN=align, num_warps=4, **LAUNCH
        )
        compact_rows_fill_kernel[(programs,)](
            mask,
            counts,
            rows,
            inverse,
            count,
            length // align,
            programs,
            BL=TOKEN_BLOCK,
            BN=triton.next_power_of_2(programs),
            ALIGN=align,
            num_warps=4,
            **LAUNCH,
        )
    return rows, inverse, count
