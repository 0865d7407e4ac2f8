from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..library import CODES, define, run_op


def fake(
    k_store: Tensor, v_store: Tensor, k_scale: Tensor, v_scale: Tensor, dtype: Any, length: int
) -> tuple[Tensor, Tensor]:
    k = k_store.new_empty((k_store.shape[0], length, k_store.shape[2]), dtype=dtype)
    return k, torch.empty_like(k)


@define(
    "(Tensor k_store, Tensor v_store, Tensor k_scale, Tensor v_scale, ScalarType dtype, "
    "int length) -> (Tensor, Tensor)",
    fake=fake,
    kernel_dtypes={"k_store": CODES, "v_store": CODES},
)
def read_kv(
    k_store: Tensor,
    v_store: Tensor,
    k_scale: Tensor,
    v_scale: Tensor,
    *,
    dtype: torch.dtype,
    length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Read keys and values from stores of 8 bits: `code * scale`, in fp32, rounded once.

    Args:
        k_store: [B, L, C] float8_e4m3fn or int8.
        v_store: [B, L, C] float8_e4m3fn or int8.
        k_scale: [B, L, heads] float32, as `scatter_kv` left it.
        v_scale: [B, L, heads] float32.
        dtype: float32, bfloat16 or float16.
        length: read the first rows only; None for all.

    Returns:
        k, v [B, length, C] in `dtype`.
    """
    op = "read_kv"
    checks.shape(op, "k_store", k_store, "[B, L, C]", -1, -1, -1)
    k_scale, v_scale = checks.coded_stores(op, k_store, v_store, k_scale, v_scale, written=False)
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(
            f"{op}: dtype is {dtype}; it must be float32, bfloat16 or float16. "
            "Pass the dtype that the attention computes in."
        )
    length = k_store.shape[1] if length is None else length
    checks.between(op, "length", length, 0, k_store.shape[1])
    result: tuple[Tensor, Tensor] = run_op(op, k_store, v_store, k_scale, v_scale, dtype, length)
    return result
