from __future__ import annotations

from torch import Tensor

from .. import checks
from ..library import FLOATS, define, run_op


def fake(
    x: Tensor, rows: Tensor, rotary: Tensor | None, modulation: Tensor | None, divisor: int
) -> tuple[Tensor, Tensor, Tensor]:
    lists, count = rows.shape

    def picked(source: Tensor | None) -> Tensor:
        if source is None:
            return x.new_empty(0)
        return source.new_empty((max(source.shape[0], lists), count, source.shape[2]))

    return picked(x), picked(rotary), picked(modulation)


@define(
    "(Tensor x, Tensor rows, Tensor? rotary, Tensor? modulation, int divisor) "
    "-> (Tensor, Tensor, Tensor)",
    fake=fake,
    kernel_dtypes={"x": FLOATS, "rotary": FLOATS, "modulation": FLOATS},
)
def gather_rows(
    x: Tensor,
    rows: Tensor,
    rotary: Tensor | None = None,
    modulation: Tensor | None = None,
    *,
    divisor: int = 1,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Pick the rows of tokens, of their rotary table and of their frames' modulation, in one pass.

    `x'[b, j] = x[b, rows[b, j]]`, `rotary'` likewise, `modulation'[b, j] = modulation[b, rows[b, j]
    // divisor]`; zeros where `rows` is -1. One list may serve all batch rows, and one batch row all
    lists: an answer has as many batch rows as the more numerous of the two.

    Args:
        x: [B, L, C] float.
        rows: [R, n] int32, R = 1 or B; any R if B = 1.
        rotary: [1 or B, L, P] float, or None.
        modulation: [1 or B, F, M] float, or None.
        divisor: tokens per row of modulation; plays no part in x and rotary.

    Returns:
        x' [max(B, R), n, C], rotary' [1 or max(B, R), n, P], modulation' [1 or max(B, R), n, M],
        each in the dtype of its source; None where there is none.
    """
    op = "gather_rows"
    checks.shape(op, "x", x, "[B, L, C]", -1, -1, -1)
    batch, length, _ = x.shape
    checks.rows(op, "rows", rows, -1 if batch == 1 else batch, -1, "[R, n]")
    checks.device(op, x, rows=rows, rotary=rotary, modulation=modulation)
    if rotary is not None:
        checks.shape(op, "rotary", rotary, "[1 or B, L, P]", -1, length, -1)
    if modulation is not None:
        checks.shape(op, "modulation", modulation, "[1 or B, F, M]", -1, -1, -1)
    for name, tensor in (("x", x), ("rotary", rotary), ("modulation", modulation)):
        if tensor is None:
            continue
        if tensor.shape[0] not in (1, max(batch, rows.shape[0])):
            raise ValueError(
                f"{op}: {name} has {tensor.shape[0]} batch rows, x {batch} and rows {rows.shape[0]}"
                " lists; each must be 1 or the same number. Pass tensors of one call."
            )
        checks.floating(op, name, tensor)
        checks.contiguous(op, name, tensor)
    if divisor < 1:
        raise ValueError(
            f"{op}: divisor is {divisor}; it must be 1 or more (tokens per row of modulation)."
        )
    given: tuple[Tensor, Tensor, Tensor] = run_op(
        op, x, rows.contiguous(), rotary, modulation, divisor
    )
    return (
        given[0],
        None if rotary is None else given[1],
        None if modulation is None else given[2],
    )
