from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..library import FLOATS, define, run_op


def fake(pred: Tensor, new: Tensor, rows: Tensor, targets: Tensor, *_: Any) -> Tensor:
    return pred.new_empty((pred.shape[0], targets.shape[0], pred.shape[2]))


@define(
    "(Tensor pred, Tensor new, Tensor rows, Tensor targets, Tensor sources, Tensor weight) -> "
    "Tensor",
    fake=fake,
    kernel_dtypes={"pred": FLOATS, "new": FLOATS},
)
def correct_rows(
    pred: Tensor, new: Tensor, rows: Tensor, targets: Tensor, sources: Tensor, weight: Tensor
) -> Tensor:
    """Forecast rows, corrected by what the forecast got wrong where tokens were computed.

    `y[b, i] = pred[b, targets[i]] + sum_k weight[b, i, k] * (new[b, s] - pred[b, rows[s]])` with
    `s = sources[i, k]`; entries of -1 are skipped, whatever their weight is. In fp32 inside and
    rounded once (ours: errors of the forecast that computed tokens show, spread to tokens near and
    like them).

    Args:
        pred: [B, L, C] float, what tokens that are not computed are forecast to be.
        new: [B, n, C] float, the computed rows.
        rows: [n] int32, their tokens. No entry of sources may name a place that is padding here.
        targets: [m] int32, the tokens to correct; without padding.
        sources: [m, K] int32: places in new of computed tokens near a target, or -1.
        weight: [B, m, K] float32.

    Returns:
        y [B, m, C] in the dtype of pred.
    """
    op = "correct_rows"
    checks.shape(op, "pred", pred, "[B, L, C]", -1, -1, -1)
    batch, _, channels = pred.shape
    checks.shape(op, "new", new, "[B, n, C]", batch, -1, channels)
    checks.shape(op, "rows", rows, "[n]", new.shape[1])
    checks.shape(op, "targets", targets, "[m]", -1)
    checks.shape(op, "sources", sources, "[m, K]", targets.shape[0], -1)
    checks.shape(op, "weight", weight, "[B, m, K]", batch, *sources.shape)
    checks.device(op, pred, new=new, rows=rows, targets=targets, sources=sources, weight=weight)
    for name, tensor in (("pred", pred), ("new", new)):
        checks.floating(op, name, tensor)
        checks.contiguous(op, name, tensor)
    for name, tensor in (("rows", rows), ("targets", targets), ("sources", sources)):
        checks.dtype(op, name, tensor, torch.int32)
    checks.dtype(op, "weight", weight, torch.float32)
    result: Tensor = run_op(
        op,
        pred,
        new,
        rows.contiguous(),
        targets.contiguous(),
        sources.contiguous(),
        weight.contiguous(),
    )
    return result
