from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._tuning import LAUNCH, channel_block, on_device, row_block


@triton.jit
def _gather_block(
    source,
    rows,
    o,
    i,
    L,
    n,
    divisor,
    C: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    SHARED: tl.constexpr,
    SHARED_ROWS: tl.constexpr,
):
    # the blocks of a row come one after the other, so that neighbours copy adjacent memory
    across = tl.cdiv(C, BC)
    i_m = i // across
    i_n = i_m % tl.cdiv(n, BM)
    i_b = (i_m // tl.cdiv(n, BM)).to(tl.int64)
    o_n = i_n * BM + tl.arange(0, BM)
    o_c = i % across * BC + tl.arange(0, BC)
    m_n = o_n < n
    m_c = o_c < C
    p_rows = rows if SHARED_ROWS else rows + i_b * n
    p_source = source if SHARED else source + i_b * L * C
    b_row = tl.load(p_rows + o_n, mask=m_n, other=-1)
    m_source = (b_row >= 0)[:, None] & m_c[None, :]
    b_from = tl.where(b_row >= 0, b_row // divisor, 0).to(tl.int64)
    # [BM, BC]
    b_x = tl.load(p_source + b_from[:, None] * C + o_c[None, :], mask=m_source, other=0.0)
    p_o = o + (i_b * n + o_n)[:, None] * C + o_c[None, :]
    tl.store(p_o, b_x, mask=m_n[:, None] & m_c[None, :])


@triton.jit(do_not_specialize=["L", "F", "n", "divisor", "first_rotary", "first_modulation"])
def gather_rows_fwd_kernel(
    x,
    rows,
    rotary,
    modulation,
    o_x,
    o_rotary,
    o_modulation,
    L,
    F,
    n,
    divisor,
    first_rotary,
    first_modulation,
    C: tl.constexpr,
    BM_X: tl.constexpr,
    BC_X: tl.constexpr,
    P: tl.constexpr,
    BM_R: tl.constexpr,
    BC_R: tl.constexpr,
    M: tl.constexpr,
    BM_M: tl.constexpr,
    BC_M: tl.constexpr,
    SHARED_X: tl.constexpr,
    SHARED_ROTARY: tl.constexpr,
    SHARED_MODULATION: tl.constexpr,
    SHARED_ROWS: tl.constexpr,
):
    i = tl.program_id(0)
    if i < first_rotary:
        _gather_block(x, rows, o_x, i, L, n, 1, C, BM_X, BC_X, SHARED_X, SHARED_ROWS)
    elif i < first_modulation:
        if P > 0:
            i_r = i - first_rotary
            _gather_block(
                rotary, rows, o_rotary, i_r, L, n, 1, P, BM_R, BC_R, SHARED_ROTARY, SHARED_ROWS
            )
    elif M > 0:
        i_m = i - first_modulation
        _gather_block(
            modulation,
            rows,
            o_modulation,
            i_m,
            F,
            n,
            divisor,
            M,
            BM_M,
            BC_M,
            SHARED_MODULATION,
            SHARED_ROWS,
        )


def gather_rows(
    x: Tensor, rows: Tensor, rotary: Tensor | None, modulation: Tensor | None, divisor: int
) -> tuple[Tensor, Tensor, Tensor]:
    lists, count = rows.shape
    results, starts, widths = [], [0], []
    for source in (x, rotary, modulation):
        if source is None:
            results.append(x.new_empty(0))
            starts.append(starts[-1])
            widths += [0, 1, 1]
            continue
        batch, _, channels = source.shape
        batch = max(batch, lists)
        results.append(source.new_empty((batch, count, channels)))
        block_m, block_c = row_block(channels), channel_block(channels)
        programs = triton.cdiv(count, block_m) * triton.cdiv(channels, block_c) * batch
        starts.append(starts[-1] + programs)
        widths += [channels, block_m, block_c]
    if starts[-1] > 0:
        with on_device(x):
            gather_rows_fwd_kernel[(starts[-1],)](
                x,
                rows,
                rotary,
                modulation,
                *results,
                x.shape[1],
                0 if modulation is None else modulation.shape[1],
                count,
                divisor,
                starts[1],
                starts[2],
                *widths,
                SHARED_X=x.shape[0] == 1,
                SHARED_ROTARY=rotary is None or rotary.shape[0] == 1,
                SHARED_MODULATION=modulation is None or modulation.shape[0] == 1,
                SHARED_ROWS=lists == 1,
                num_warps=4,
                **LAUNCH,
            )
    return results[0], results[1], results[2]
