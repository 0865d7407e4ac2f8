"""The public ops on stored keys and values. Conventions: `ops`.

A store of 8 bits has one fp32 scale for each token and head, `amax(|head|) / largest`, and holds
`value * (largest / amax)`, rounded to nearest even; largest is 448 for float8_e4m3fn and 127 for
int8; a number is read as `code * scale` (per-token, per-head symmetric quantisation). int8 suits
keys: its steps are the same for all numbers, and in a product with a query the large ones count.
A head below 2^-100 has scale 1 and is stored as zeros. A head that holds a NaN or an infinity reads
as NaN throughout. Both back ends write the same codes, but for the sign of NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .library import call

E4M3 = torch.float8_e4m3fn
CODES = (E4M3, torch.int8)


def scatter_kv(
    k_new: Tensor,
    v_new: Tensor,
    rows: Tensor,
    k_store: Tensor,
    v_store: Tensor,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
) -> None:
    """Write fresh keys and values into the store: `store[b, rows[b, j]] = new[b, j]`.

    -1 is skipped. Converts to the dtype of the store. A row may occur once in a list.

    Args:
        k_new: [B, n, C] float, C = heads * head width.
        v_new: [B, n, C] float.
        rows: [R, n] int32, R = 1 or B.
        k_store: [B, L, C] float, float8_e4m3fn or int8, in place.
        v_store: [B, L, C] of the same float dtype, or also of 8 bits, in place.
        k_scale: [B, L, heads] float32, in place: given with stores of 8 bits, else None.
        v_scale: [B, L, heads] float32, in place, or None.
    """
    op = "scatter_kv"
    checks.shape(op, "k_new", k_new, "[B, n, C]", -1, -1, -1)
    batch, count, channels = k_new.shape
    checks.shape(op, "v_new", v_new, "[B, n, C]", batch, count, channels)
    checks.shape(op, "k_store", k_store, "[B, L, C]", batch, -1, channels)
    checks.rows(op, "rows", rows, batch, count, "[R, n]")
    checks.device(op, k_new, v_new=v_new, rows=rows, k_store=k_store)
    for name, tensor in (("k_new", k_new), ("v_new", v_new)):
        checks.floating(op, name, tensor)
        checks.contiguous(op, name, tensor)
    if k_store.dtype in CODES or k_scale is not None or v_scale is not None:
        k_scale, v_scale = _scaled(op, k_store, v_store, k_scale, v_scale, written=True)
    else:
        if not k_store.is_floating_point() or k_store.dtype in checks.FP8:
            raise ValueError(
                f"{op}: k_store is {k_store.dtype}; it must be float32, bfloat16, float16, "
                f"float64, or {E4M3} or int8 with scales. Allocate the stores in one of these."
            )
        _twin(op, k_store, v_store)
        checks.dtype(op, "v_store", v_store, k_store.dtype)
        for name, tensor in (("k_store", k_store), ("v_store", v_store)):
            checks.contiguous(op, name, tensor, written=True)
    call(op, k_new, v_new, rows.contiguous(), k_store, v_store, k_scale, v_scale)


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
    k_scale, v_scale = _scaled(op, k_store, v_store, k_scale, v_scale, written=False)
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(
            f"{op}: dtype is {dtype}; it must be float32, bfloat16 or float16. "
            "Pass the dtype that the attention computes in."
        )
    length = k_store.shape[1] if length is None else length
    checks.between(op, "length", length, 0, k_store.shape[1])
    result: tuple[Tensor, Tensor] = call(op, k_store, v_store, k_scale, v_scale, dtype, length)
    return result


def _twin(op: str, k_store: Tensor, v_store: Tensor) -> None:
    checks.shape(op, "v_store", v_store, "[B, L, C]", *k_store.shape)
    checks.device(op, k_store, v_store=v_store)


def _scaled(
    op: str,
    k_store: Tensor,
    v_store: Tensor,
    k_scale: Tensor | None,
    v_scale: Tensor | None,
    *,
    written: bool,
) -> tuple[Tensor, Tensor]:
    """The scales, once they are known to belong to these stores."""
    for name, tensor in (("k_store", k_store), ("v_store", v_store)):
        if tensor.dtype not in CODES:
            raise ValueError(
                f"{op}: {name} is {tensor.dtype}, and scales are given; they belong to {E4M3} and "
                "int8. Pass stores of these dtypes, or no scales."
            )
    if k_scale is None or v_scale is None:
        raise ValueError(
            f"{op}: k_store is {k_store.dtype}, and k_scale or v_scale is None. Pass both, "
            "[B, L, heads] float32; without a scale the codes would be cut off."
        )
    _twin(op, k_store, v_store)
    batch, length, channels = k_store.shape
    checks.shape(op, "k_scale", k_scale, "[B, L, heads]", batch, length, -1)
    heads = k_scale.shape[2]
    checks.shape(op, "v_scale", v_scale, "[B, L, heads]", batch, length, heads)
    if heads < 1 or channels % heads:
        raise ValueError(
            f"{op}: k_scale has {heads} heads, and {channels} channels are no multiple of that. "
            "Give it as many scales a token as the attention has heads."
        )
    checks.device(op, k_store, k_scale=k_scale, v_scale=v_scale)
    for name, tensor in (("k_scale", k_scale), ("v_scale", v_scale)):
        checks.dtype(op, name, tensor, torch.float32)
        checks.contiguous(op, name, tensor, written=written)
    for name, tensor in (("k_store", k_store), ("v_store", v_store)):
        checks.contiguous(op, name, tensor, written=written)
    return k_scale, v_scale
