from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..shares import count_above, count_reaching
from ._tuning import TOKEN_BLOCK, on_device, side_alignment


@triton.jit(do_not_specialize=["F", "position_units", "max_stale", "votes_needed", "threshold"])
def accumulate_due_vote_kernel(
    accumulator,
    stale,
    distance,
    weight,
    grown,
    elected,
    counts,
    F,
    position_units,
    threshold,
    votes_needed,
    max_stale,
    BF: tl.constexpr,
    BS: tl.constexpr,
    ALIGN: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    VOTE: tl.constexpr,
    FORCE: tl.constexpr,
):
    S = position_units * ALIGN
    i_s = tl.program_id(0)
    o_s = i_s * BS + tl.arange(0, BS)
    m_s = o_s < S
    b_distance = tl.load(distance)
    b_crossed = tl.zeros([BF, BS], tl.int32)
    b_force = tl.zeros([BF, BS], tl.int32)
    b_both = tl.zeros([BF, BS], tl.int32)
    for i_f in range(0, F, BF):
        o_f = i_f + tl.arange(0, BF)
        # [BF, BS]
        m = (o_f < F)[:, None] & m_s[None, :]
        o_l = o_f[:, None] * S + o_s[None, :]
        b_a = tl.load(accumulator + o_l, mask=m, other=0.0)
        if HAS_WEIGHT:
            b_a += b_distance * tl.load(weight + o_l, mask=m, other=0.0)
        else:
            b_a += b_distance
        tl.store(grown + o_l, b_a, mask=m)
        m_crossed = (b_a >= threshold) & m
        b_crossed += m_crossed.to(tl.int32)
        if FORCE:
            m_force = (tl.load(stale + o_l, mask=m, other=0) >= max_stale) & m
            b_force += m_force.to(tl.int32)
            b_both += (m_force & m_crossed).to(tl.int32)
    b_votes = tl.sum(b_crossed, axis=0)
    b_forced = tl.sum(b_force, axis=0)
    b_either = b_votes + b_forced - tl.sum(b_both, axis=0)
    if VOTE:
        b_elected = b_votes >= votes_needed
        tl.store(elected + o_s, b_elected.to(tl.int8), mask=m_s)
        b_votes = tl.where(b_elected, F, 0)
        b_either = tl.where(b_elected, F, b_forced)
    p_counts = counts + i_s * 3
    tl.store(p_counts, tl.sum(b_votes, axis=0))
    tl.store(p_counts + 1, tl.sum(b_forced, axis=0))
    tl.store(p_counts + 2, tl.sum(b_either, axis=0))


@triton.jit(
    do_not_specialize=["F", "position_units", "NB", "max_stale", "rows_needed", "threshold"]
)
def accumulate_due_reset_kernel(
    accumulator,
    stale,
    grown,
    elected,
    counts,
    due,
    count,
    F,
    position_units,
    NB,
    threshold,
    rows_needed,
    max_stale,
    BL: tl.constexpr,
    BN: tl.constexpr,
    ALIGN: tl.constexpr,
    VOTE: tl.constexpr,
    FORCE: tl.constexpr,
):
    S = position_units * ALIGN
    L = F * S
    i_l = tl.program_id(0)
    # every program adds up the counts of the first pass: cheaper than a launch between the two
    o_n = tl.arange(0, BN)
    m_n = o_n < NB
    n_crossed = tl.sum(tl.load(counts + o_n * 3, mask=m_n, other=0), axis=0)
    n_forced = tl.sum(tl.load(counts + o_n * 3 + 1, mask=m_n, other=0), axis=0)
    n_either = tl.sum(tl.load(counts + o_n * 3 + 2, mask=m_n, other=0), axis=0)
    enough = n_crossed >= rows_needed
    o_l = i_l * BL + tl.arange(0, BL)
    # a bound of 0 rejects all: a scalar must not be joined to a mask with &
    m_l = o_l < L
    m_enough = o_l < tl.where(enough, L, 0)
    b_a = tl.load(grown + o_l, mask=m_l, other=0.0)
    b_stale = tl.load(stale + o_l, mask=m_l, other=0)
    if VOTE:
        b_due = (tl.load(elected + o_l % S, mask=m_l, other=0) != 0) & m_enough
    else:
        b_due = (b_a >= threshold) & m_enough
    if FORCE:
        b_due = b_due | (b_stale >= max_stale)
    tl.store(accumulator + o_l, tl.where(b_due, 0.0, b_a), mask=m_l)
    tl.store(stale + o_l, tl.where(b_due, 0, b_stale + 1), mask=m_l)
    tl.store(due + o_l, b_due.to(tl.int8), mask=m_l)
    if i_l == 0:
        tl.store(count, tl.where(enough, n_either, n_forced))


def accumulate_due(
    accumulator: Tensor,
    stale: Tensor,
    distance: Tensor,
    weight: Tensor | None,
    frames: int,
    threshold: float,
    agreement: float,
    min_update_ratio: float,
    max_stale_steps: int,
) -> tuple[Tensor, Tensor]:
    length = accumulator.shape[0]
    tokens = length // frames
    vote = agreement >= 0
    # a program has 512 tokens, 4 a thread: what one thread loads at once
    block_f = 8 if frames > 1 else 1
    block_s = 512 // block_f
    programs, align = triton.cdiv(tokens, block_s), side_alignment(tokens)
    # the first pass writes scratch only: if the second cannot be compiled, nothing has changed
    grown = torch.empty_like(accumulator)
    elected = accumulator.new_empty(tokens, dtype=torch.uint8)
    counts = accumulator.new_empty((programs, 3), dtype=torch.int32)
    due = accumulator.new_empty(length, dtype=torch.uint8)
    count = accumulator.new_empty(1, dtype=torch.int32)
    # a contracted a + d * w would be rounded once and could cross where the reference does not
    launch = {"num_warps": 4, "enable_fp_fusion": False}
    with on_device(accumulator):
        accumulate_due_vote_kernel[(programs,)](
            accumulator,
            stale,
            distance,
            weight,
            grown,
            elected,
            counts,
            frames,
            tokens // align,
            threshold,
            count_above(agreement, frames) if vote else 0,
            max_stale_steps,
            BF=block_f,
            BS=block_s,
            ALIGN=align,
            HAS_WEIGHT=weight is not None,
            VOTE=vote,
            FORCE=max_stale_steps > 0,
            **launch,
        )
        accumulate_due_reset_kernel[(triton.cdiv(length, TOKEN_BLOCK),)](
            accumulator,
            stale,
            grown,
            elected,
            counts,
            due,
            count,
            frames,
            tokens // align,
            programs,
            threshold,
            count_reaching(min_update_ratio, length),
            max_stale_steps,
            BL=TOKEN_BLOCK,
            BN=triton.next_power_of_2(programs),
            ALIGN=align,
            VOTE=vote,
            FORCE=max_stale_steps > 0,
            **launch,
        )
    return due, count
