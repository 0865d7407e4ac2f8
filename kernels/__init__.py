"""Tensor operations of token reuse: plain torch everywhere, Triton where it can run.

See `ops` for what each op computes and `registry` for how a back end is chosen.
"""

from __future__ import annotations

from . import ops, reference, registry, triton
from .errors import BackendUnavailableError
from .ops import *  # noqa: F403
from .registry import BackendInfo, list_backends, use_backend

registry.register(triton.BACKEND, ops.OPS)
registry.register(reference.BACKEND, ops.OPS)

__all__ = [
    "BackendInfo",
    "BackendUnavailableError",
    "list_backends",
    "use_backend",
    *ops.__all__,
]
