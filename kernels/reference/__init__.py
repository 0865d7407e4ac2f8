"""Plain torch: the ground truth of every op, and what runs where no faster back end can.

On a CPU an op may look at numbers to do less; elsewhere none makes the host wait for the device.
Rows are trusted: torch checks them on a CPU.
"""

from __future__ import annotations

import torch

from ..registry import Backend, Capability

OPS = (
    "motion_map",
    "accumulate_due",
    "compact_rows",
    "select_top",
    "gather_rows",
    "reuse_residual",
    "scatter_residual",
    "store_residual",
    "correct_rows",
    "scatter_kv",
    "read_kv",
)

BACKEND = Backend(
    name="reference",
    package=__name__,
    probe=lambda device: None,
    describe=lambda: (True, f"torch {torch.__version__}"),
    capabilities={op: Capability() for op in OPS},
)
