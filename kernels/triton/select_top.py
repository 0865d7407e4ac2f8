from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._tuning import LAUNCH, on_device, side_alignment

BLOCK = 2048
DIGITS = 256
# counts are added up this many programs at a time, so that they stay in registers
BLOCK_COUNTS = 32


@triton.jit
def _keys(score, o_l, m_l):
    """Order-preserving uint32 keys; NaN is highest, and -0.0 is 0.0."""
    b_bits = tl.load(score + o_l, mask=m_l, other=0.0).to(tl.uint32, bitcast=True)
    b_bits = tl.where(b_bits == 0x80000000, 0, b_bits)
    b_key = tl.where(b_bits >= 0x80000000, b_bits ^ 0xFFFFFFFF, b_bits | 0x80000000)
    return tl.where((b_bits & 0x7FFFFFFF) > 0x7F800000, 0xFFFFFFFF, b_key)


@triton.jit
def _next_digit(counts, state, i_d, NB, BN: tl.constexpr, BD: tl.constexpr):
    """Settles a digit of the key of the last chosen row: (key so far, rows left to choose among
    those that begin with it, the digit)."""
    o_d = tl.arange(0, BD)
    b_count = tl.zeros([BD], tl.int32)
    for i_n in range(0, NB, BN):
        o_n = i_n + tl.arange(0, BN)
        p_n = counts + (i_d * NB + o_n)[:, None] * BD + o_d[None, :]
        b_count += tl.sum(tl.load(p_n, mask=(o_n < NB)[:, None], other=0), axis=0)
    left = tl.load(state + i_d * 2 + 1)
    b_above = tl.sum(b_count, axis=0) - tl.cumsum(b_count, axis=0)
    # nothing left to choose: the highest digit, so that in the end no key is above
    digit = tl.minimum(tl.sum((b_above >= left).to(tl.int32), axis=0), BD - 1)
    left -= tl.sum(tl.where(o_d == digit, b_above, 0), axis=0)
    prefix = tl.load(state + i_d * 2).to(tl.uint32, bitcast=True) * BD + digit.to(tl.uint32)
    return prefix, left, digit


@triton.jit(do_not_specialize=["units", "NB", "i_d"])
def select_top_count_kernel(
    score,
    count,
    counts,
    state,
    units,
    NB,
    i_d,
    BL: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    ALIGN: tl.constexpr,
    FIRST: tl.constexpr,
):
    L = units * ALIGN
    i_l = tl.program_id(0)
    o_l = i_l * BL + tl.arange(0, BL)
    b_key = _keys(score, o_l, o_l < L)
    shift = (24 - 8 * i_d).to(tl.uint32)
    if FIRST:
        prefix = 0
        # below 0 it chooses the highest digits, above L the lowest: none and all
        left = tl.load(count)
        b_out = (o_l >= L).to(tl.int32)
    else:
        prefix, left, _ = _next_digit(counts, state, i_d - 1, NB, BN, BD)
        b_prefix = b_key >> (shift + 8)
        b_out = ((b_prefix != prefix) | (o_l >= L)).to(tl.int32)
        prefix = prefix.to(tl.int32, bitcast=True)
    b_digit = ((b_key >> shift) & (BD - 1)).to(tl.int32)
    # rows that are out are counted as digit 0 and taken off again
    b_count = tl.histogram(tl.where(b_out != 0, 0, b_digit), BD)
    o_d = tl.arange(0, BD)
    b_count -= tl.where(o_d == 0, tl.sum(b_out, axis=0), 0)
    tl.store(counts + (i_d * NB + i_l) * BD + o_d, b_count)
    if i_l == 0:
        tl.store(state + i_d * 2, prefix)
        tl.store(state + i_d * 2 + 1, left)


@triton.jit(do_not_specialize=["units", "NB"])
def select_top_mark_kernel(
    score,
    counts,
    state,
    o,
    units,
    NB,
    BL: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    ALIGN: tl.constexpr,
):
    L = units * ALIGN
    i_l = tl.program_id(0)
    lowest, left, digit = _next_digit(counts, state, 3, NB, BN, BD)
    # the last digits were counted among rows of equal digits before, so these are the equal keys
    first = 0
    for i_n in range(0, i_l, BN):
        o_n = i_n + tl.arange(0, BN)
        p_n = counts + (3 * NB + o_n) * BD + digit
        first += tl.sum(tl.load(p_n, mask=o_n < i_l, other=0), axis=0)
    o_l = i_l * BL + tl.arange(0, BL)
    m_l = o_l < L
    b_key = _keys(score, o_l, m_l)
    b_tie = (b_key == lowest).to(tl.int32)
    b_place = first + tl.cumsum(b_tie, axis=0) - b_tie
    b_chosen = (b_key > lowest) | ((b_tie != 0) & (b_place < left))
    tl.store(o + o_l, b_chosen.to(tl.int8), mask=m_l)


def select_top(score: Tensor, count: Tensor) -> Tensor:
    length = score.shape[0]
    result = score.new_empty(length, dtype=torch.uint8)
    if length == 0:
        return result
    programs, align = triton.cdiv(length, BLOCK), side_alignment(length)
    counts = score.new_empty((4, programs, DIGITS), dtype=torch.int32)
    state = score.new_empty((4, 2), dtype=torch.int32)
    blocks = {"BL": BLOCK, "BN": BLOCK_COUNTS, "BD": DIGITS, "ALIGN": align, "num_warps": 8}
    # five short launches of many programs: a histogram costs about 100 instructions a number, which
    # would keep a single program, on 1 of an H200's 132 multiprocessors, busy for the longest
    with on_device(score):
        for i in range(4):
            select_top_count_kernel[(programs,)](
                score,
                count,
                counts,
                state,
                length // align,
                programs,
                i,
                FIRST=i == 0,
                **blocks,
                **LAUNCH,
            )
        select_top_mark_kernel[(programs,)](
            score,
            counts,
            state,
            result,
            length // align,
            programs,
            **blocks,
            **LAUNCH,
        )
    return result
