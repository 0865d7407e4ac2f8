from __future__ import annotations

from torch import Tensor

from .. import checks
from ..library import CODES, FLOATS, define, run_op


@define(
    "(Tensor k_new, Tensor v_new, Tensor rows, Tensor(a!) k_store, Tensor(b!) v_store, "
    "Tensor(c!)? k_scale, Tensor(d!)? v_scale) -> ()",
    fake=lambda *_: None,
    mutates=("k_store", "v_store", "k_scale", "v_scale"),
    kernel_dtypes={
        "k_new": FLOATS,
        "v_new": FLOATS,
        "k_store": FLOATS | CODES,
        "v_store": FLOATS | CODES,
    },
)
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
        k_scale, v_scale = checks.coded_stores(op, k_store, v_store, k_scale, v_scale, written=True)
    else:
        if not k_store.is_floating_point() or k_store.dtype in checks.FP8:
            raise ValueError(
                f"{op}: k_store is {k_store.dtype}; it must be float32, bfloat16, float16, "
                "float64, or torch.float8_e4m3fn or int8 with scales. "
                "Allocate the stores in one of these."
            )
        checks.twin(op, k_store, v_store)
        checks.dtype(op, "v_store", v_store, k_store.dtype)
        for name, tensor in (("k_store", k_store), ("v_store", v_store)):
            checks.contiguous(op, name, tensor, written=True)
    run_op(op, k_new, v_new, rows.contiguous(), k_store, v_store, k_scale, v_scale)
