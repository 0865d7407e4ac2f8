"""float8_e4m3fn: 1 sign, 4 exponent (bias 7), 3 mantissa bits; 448 is the largest number, 0x7F NaN.

Bytes stand for the numbers, and integer arithmetic converts: sm_80 has no such conversion in
hardware, and what gfx942 calls e4m3 is another format.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import interpreting


@triton.jit
def encode(b_x, NATIVE: tl.constexpr):
    """fp32 -> uint8 codes, rounded to nearest even."""
    if NATIVE:
        return b_x.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    b_bits = b_x.to(tl.uint32, bitcast=True)
    b_size = b_bits & 0x7FFFFFFF
    # the exponent's bias moves from 127 to 7; what overflows is NaN
    b_code = ((b_size + 0x7FFFF + ((b_size >> 20) & 1)) >> 20) - 960
    b_code = tl.minimum(b_code, 0x7F)
    # below 2^-6, steps are 2^-9: so are those of fp32 at 2^14, whose bits are 0x46800000
    b_small = (b_size.to(tl.float32, bitcast=True) + 16384.0).to(tl.uint32, bitcast=True)
    b_code = tl.where(b_size < 0x3C800000, b_small - 0x46800000, b_code)
    return (b_code | ((b_bits >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def decode(b_code, NATIVE: tl.constexpr):
    """uint8 codes -> fp32, exact."""
    if NATIVE:
        return b_code.to(tl.float8e4nv, bitcast=True).to(tl.float32)
    b_wide = b_code.to(tl.uint16)
    # the bits of an fp16 (bias 15) of 2^-8 times the size, subnormal numbers included
    b_bits = ((b_wide & 0x7F) << 7) | ((b_wide & 0x80) << 8)
    b_x = b_bits.to(tl.float16, bitcast=True).to(tl.float32) * 256.0
    return tl.where((b_wide & 0x7F) == 0x7F, float("nan"), b_x)


def codes(store: Tensor) -> Tensor:
    """A store's memory as kernels take it: int8 as it is, fp8 as bytes."""
    return store if store.dtype == torch.int8 else store.view(torch.uint8)


def native() -> bool:
    """Whether the device in use converts this format in hardware, with one rounding: for sm_89,
    Triton 3.6 rounds to fp16 first."""
    if interpreting():
        return False
    target = triton.runtime.driver.active.get_current_target()
    return target.backend == "cuda" and int(target.arch) >= 90
