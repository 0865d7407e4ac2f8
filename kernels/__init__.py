"""Tensor operations of token reuse: plain torch everywhere, Triton where it can run.

See `ops` for what each op computes and `registry` for how a back end is chosen.
"""

from __future__ import annotations

from . import reference, registry, triton
from .errors import BackendUnavailableError
from .ops import (
    OPS,
    accumulate_due,
    compact_rows,
    correct_rows,
    gather_rows,
    motion_map,
    read_kv,
    reuse_residual,
    scatter_kv,
    scatter_residual,
    select_top,
    store_residual,
)
from .registry import BackendInfo, list_backends, use_backend

registry.register(triton.BACKEND, OPS)
registry.register(reference.BACKEND, OPS)

__all__ = [
    "BackendInfo",
    "BackendUnavailableError",
    "accumulate_due",
    "compact_rows",
    "correct_rows",
    "gather_rows",
    "list_backends",
    "motion_map",
    "read_kv",
    "reuse_residual",
    "scatter_kv",
    "scatter_residual",
    "select_top",
    "store_residual",
    "use_backend",
]
