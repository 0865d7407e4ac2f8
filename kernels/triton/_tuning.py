"""Launch rules, fixed by the channels: no autotune, and the count of active rows plays no part."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
import triton
from torch import Tensor

# the default of contraction changes with Triton 3.10; numbers shall not change with the version
LAUNCH: Mapping[str, object] = {"enable_fp_fusion": True}

# tokens per program of the kernels that work on [L] arrays
TOKEN_BLOCK = 1024

# numbers per program of the kernels that take a tensor as one long array: two full vectors of fp32
# a thread, of each of six tensors at most
FLAT_BLOCK = 1024


def channel_block(channels: int) -> int:
    """Channels per program and row. 1024 divides the widths of Wan (1536 has one half-empty block)
    better than the next power of two, and keeps all registers on sm_100."""
    return min(triton.next_power_of_2(channels), 1024)


def row_block(channels: int) -> int:
    """Rows per program: about 2048 numbers, so that narrow rows fill a program too."""
    return max(1, min(16, 2048 // channel_block(channels)))


def side_alignment(*lengths: int) -> int:
    """What a kernel may know of the lengths of flat arrays, as a constexpr: 8 or 1.

    A masked load is vectorised only if its bound is known to be divisible, and Triton itself tells
    16 only, which Wan's 32760 tokens are not divisible by. A kernel is given `length // ALIGN` and
    multiplies, because `tl.multiple_of` has no effect on an argument.
    """
    return 8 if all(length % 8 == 0 for length in lengths) else 1


def head_tile(width: int) -> tuple[int, int]:
    """Heads per program and numbers per head, a power of two: about 2048 numbers."""
    numbers = triton.next_power_of_2(width)
    return max(1, 2048 // numbers), numbers


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be that of the tensors."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
