from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from ..library import define, run_op


def fake(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows = mask.new_empty(mask.shape, dtype=torch.int32)
    return rows, torch.empty_like(rows), rows.new_empty((1,))


@define(
    "(Tensor mask) -> (Tensor, Tensor, Tensor)",
    fake=fake,
)
def compact_rows(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """List the rows that are set in a mask, ascending, without a round trip to the host.

    Args:
        mask: [L] uint8 or bool; not 0 is set.

    Returns:
        rows [L] int32, filled up with -1; inverse [L] int32: a row's place in `rows`, or -1; their
        count [1] int32, which stays on the device.
    """
    op = "compact_rows"
    checks.shape(op, "mask", mask, "[L]", -1)
    checks.dtype(op, "mask", mask, torch.uint8, torch.bool)
    result: tuple[Tensor, Tensor, Tensor] = run_op(op, mask.contiguous())
    return result
