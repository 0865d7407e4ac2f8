"""The public ops: `B` batch rows, `L` tokens in frame-major order, `n` active rows, `C` channels.

A row list is int32 and names tokens; -1 in it is padding. Row numbers are trusted: no op waits for
the device to check them. Results are new, contiguous tensors; only arguments marked "in place"
change.

A store of 8 bits has one fp32 scale for each token and head, `amax(|head|) / largest`, and holds
`value * (largest / amax)`, rounded to nearest even; largest is 448 for float8_e4m3fn and 127 for
int8; a number is read as `code * scale` (per-token, per-head symmetric quantisation). int8 suits
keys: its steps are the same for all numbers, and in a product with a query the large ones count.
A head below 2^-100 has scale 1 and is stored as zeros. A head that holds a NaN or an infinity reads
as NaN throughout. Both back ends write the same codes, but for the sign of NaN.
"""

from __future__ import annotations

from .accumulate_due import accumulate_due
from .compact_rows import compact_rows
from .correct_rows import correct_rows
from .gather_rows import gather_rows
from .motion_map import motion_map
from .read_kv import read_kv
from .reuse_answer import reuse_answer
from .reuse_residual import reuse_residual
from .scatter_kv import scatter_kv
from .scatter_residual import scatter_residual
from .select_top import select_top
from .store_answer import store_answer
from .store_residual import store_residual

OPS = (
    motion_map,
    accumulate_due,
    compact_rows,
    select_top,
    gather_rows,
    reuse_residual,
    scatter_residual,
    store_residual,
    correct_rows,
    scatter_kv,
    read_kv,
    reuse_answer,
    store_answer,
)

__all__ = [op.__name__ for op in OPS]
