"""Plain torch: the ground truth of every op, and what runs where no faster back end can.

On a CPU an op may look at numbers to do less; elsewhere none makes the host wait for the device.
Rows are trusted: torch checks them on a CPU.
"""

from __future__ import annotations

import torch

from ..ops import OPS
from ..registry import Backend

BACKEND = Backend(
    name="reference",
    package=__name__,
    probe=lambda device: None,
    describe=lambda: (True, f"torch {torch.__version__}"),
    dtypes={op.__name__: {} for op in OPS},
)
