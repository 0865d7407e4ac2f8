"""Arguments of every op at a given size, and the bytes that it must move at least.

The bench times them; the GPU tests compare back ends on them. `case_<op>` is an op as the engine
calls it, `case_<op>_<variant>` another way of calling it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

E4M3 = torch.float8_e4m3fn
# computed tokens that correct one that is not
NEAR = 44


@dataclass(frozen=True)
class Sizes:
    """Sizes of one set of arguments.

    Attributes:
        tokens: tokens of a frame.
        count: active rows, padding included.
        lists: row lists, 1 or one for each batch row.
        padding: entries of -1 at the end of each row list.
    """

    device: str
    dtype: torch.dtype
    batch: int
    frames: int
    tokens: int
    channels: int
    count: int
    head_dim: int = 128
    lists: int = 1
    padding: int = 0

    @property
    def length(self) -> int:
        return self.frames * self.tokens

    @property
    def heads(self) -> int:
        return max(1, self.channels // self.head_dim)

    def nbytes(self, rows: int) -> int:
        """Bytes of `[B, rows, C]`."""
        return self.batch * rows * self.channels * self.dtype.itemsize


@dataclass(frozen=True)
class Case:
    """One way of calling an op.

    Attributes:
        make: gives the arguments; fresh ones where the op writes into them.
        moved: bytes that must be read or written at least.
        small: whether the op works on `[L]` arrays only and is bound by its launches.
    """

    op: str
    make: Callable[[], tuple[Any, ...]]
    moved: int
    named: dict[str, Any] = field(default_factory=dict)
    small: bool = False


def floats(sizes: Sizes, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.randn(shape, device=sizes.device, dtype=dtype or sizes.dtype)


def row_lists(sizes: Sizes) -> Tensor:
    """Ascending random rows `[lists, count]`, padded at the end."""
    chosen = sizes.count - sizes.padding
    rows = torch.full((sizes.lists, sizes.count), -1, device=sizes.device, dtype=torch.int32)
    for one in rows:
        picks = torch.randperm(sizes.length, device=sizes.device)[:chosen]
        one[:chosen] = picks.sort().values
    return rows


def inverse_lists(sizes: Sizes) -> Tensor:
    """Places of the rows in random lists `[lists, L]`, or -1."""
    inverse = torch.full((sizes.lists, sizes.length), -1, device=sizes.device, dtype=torch.int32)
    places = torch.arange(sizes.count, device=sizes.device, dtype=torch.int32)
    for one, rows in zip(inverse, row_lists(sizes), strict=True):
        chosen = rows >= 0
        one[rows[chosen].long()] = places[chosen]
    return inverse


def codes(sizes: Sizes) -> Tensor:
    """A float8_e4m3fn store `[B, L, C]` of finite numbers."""
    shape = (sizes.batch, sizes.length, sizes.channels)
    magnitude = torch.randint(0x7F, shape, device=sizes.device, dtype=torch.uint8)
    sign = torch.randint(2, shape, device=sizes.device, dtype=torch.uint8) << 7
    return (magnitude | sign).view(E4M3)


def scales(sizes: Sizes) -> Tensor:
    shape = (sizes.batch, sizes.length, sizes.heads)
    return torch.rand(shape, device=sizes.device) + 0.01


def case_motion_map(sizes: Sizes) -> Case:
    features = floats(sizes, sizes.batch, sizes.frames, sizes.tokens, sizes.channels)
    moved = sizes.nbytes(sizes.length) + 4 * sizes.batch * sizes.length
    return Case("motion_map", lambda: (features,), moved)


def case_motion_map_previous(sizes: Sizes) -> Case:
    features = floats(sizes, sizes.batch, sizes.frames, sizes.tokens, sizes.channels)
    previous = floats(sizes, sizes.batch, sizes.tokens, sizes.channels)
    moved = sizes.nbytes(sizes.length + sizes.tokens) + 4 * sizes.batch * sizes.length
    return Case("motion_map", lambda: (features, previous), moved)


def case_accumulate_due(sizes: Sizes) -> Case:
    accumulator = torch.rand(sizes.length, device=sizes.device)
    stale = torch.randint(0, 9, (sizes.length,), device=sizes.device, dtype=torch.int32)
    distance = torch.tensor(0.1, device=sizes.device)
    weight = torch.rand(sizes.length, device=sizes.device)
    named = {
        "frames": sizes.frames,
        "threshold": 0.5,
        "agreement": 0.5,
        "min_update_ratio": 0.1,
        "max_stale_steps": 8,
    }
    # accumulator, stale read and written, weight read, due written
    moved = 21 * sizes.length
    return Case(
        "accumulate_due",
        lambda: (accumulator.clone(), stale.clone(), distance, weight),
        moved,
        named,
        small=True,
    )


def case_select_top(sizes: Sizes) -> Case:
    # a coarse grid: many scores are equal
    score = (100 * torch.randn(sizes.length, device=sizes.device)).round()
    count = torch.tensor([sizes.count], device=sizes.device, dtype=torch.int32)
    return Case("select_top", lambda: (score, count), 5 * sizes.length, small=True)


def case_compact_rows(sizes: Sizes) -> Case:
    mask = torch.zeros(sizes.length, device=sizes.device, dtype=torch.uint8)
    mask[torch.randperm(sizes.length, device=sizes.device)[: sizes.count]] = 1
    return Case("compact_rows", lambda: (mask,), 9 * sizes.length, small=True)


def case_gather_rows(sizes: Sizes) -> Case:
    """Tokens and their rotary table, as for a clip at one noise level."""
    x, rows = floats(sizes, sizes.batch, sizes.length, sizes.channels), row_lists(sizes)
    rotary = floats(sizes, 1, sizes.length, 2 * sizes.head_dim, dtype=torch.float32)
    moved = 2 * sizes.nbytes(sizes.count) + 2 * sizes.lists * sizes.count * rotary[0, 0].nbytes
    return Case("gather_rows", lambda: (x, rows, rotary), moved)


def case_gather_rows_modulation(sizes: Sizes) -> Case:
    """Tokens, rotary table and the modulation of each token's frame, as for chunks at noise levels
    of their own. The modulation's few rows are read from the cache."""
    x, rows = floats(sizes, sizes.batch, sizes.length, sizes.channels), row_lists(sizes)
    rotary = floats(sizes, 1, sizes.length, 2 * sizes.head_dim, dtype=torch.float32)
    modulation = floats(sizes, sizes.batch, sizes.frames, 6 * sizes.channels)
    moved = (
        (2 + 6) * sizes.nbytes(sizes.count)
        + 2 * sizes.lists * sizes.count * rotary[0, 0].nbytes
        + modulation.nbytes
    )
    named = {"divisor": sizes.tokens}
    return Case("gather_rows", lambda: (x, rows, rotary, modulation), moved, named)


def _three(sizes: Sizes) -> list[Tensor]:
    return [floats(sizes, sizes.batch, sizes.length, sizes.channels) for _ in range(3)]


def _per_token(sizes: Sizes) -> Tensor:
    values = torch.rand(sizes.length, device=sizes.device) + 0.1
    # some noise levels did not move
    return values.masked_fill_(torch.rand_like(values) < 0.1, 0.0)


def case_reuse_residual(sizes: Sizes) -> Case:
    x, residual, slope = _three(sizes)
    gain = _per_token(sizes)
    moved = 4 * sizes.nbytes(sizes.length)
    return Case("reuse_residual", lambda: (x, residual, slope, gain), moved)


def case_reuse_residual_plain(sizes: Sizes) -> Case:
    x, residual, _ = _three(sizes)
    return Case("reuse_residual", lambda: (x, residual), 3 * sizes.nbytes(sizes.length))


def case_store_residual(sizes: Sizes) -> Case:
    x, residual, slope = _three(sizes)
    y, rate = torch.randn_like(x), _per_token(sizes)
    moved = 5 * sizes.nbytes(sizes.length)
    return Case("store_residual", lambda: (x, y, residual.clone(), slope.clone(), rate), moved)


def case_store_residual_plain(sizes: Sizes) -> Case:
    x, y, residual = _three(sizes)
    moved = 3 * sizes.nbytes(sizes.length)
    return Case("store_residual", lambda: (x, y, residual.clone()), moved)


def case_scatter_residual(sizes: Sizes) -> Case:
    x, residual, slope = _three(sizes)
    new, inverse = floats(sizes, sizes.batch, sizes.count, sizes.channels), inverse_lists(sizes)
    gain, rate = _per_token(sizes), _per_token(sizes)
    # x, residual, y for all; new, residual, slope for the active; slope for the others
    moved = 4 * sizes.nbytes(sizes.length) + 2 * sizes.nbytes(sizes.count)
    return Case(
        "scatter_residual",
        lambda: (x, new, inverse, residual.clone(), slope.clone(), gain, rate),
        moved,
    )


def case_scatter_residual_plain(sizes: Sizes) -> Case:
    x, residual, _ = _three(sizes)
    new, inverse = floats(sizes, sizes.batch, sizes.count, sizes.channels), inverse_lists(sizes)
    # x, y for all; new, residual for the active; residual for the others
    moved = 3 * sizes.nbytes(sizes.length) + sizes.nbytes(sizes.count)
    return Case("scatter_residual", lambda: (x, new, inverse, residual.clone()), moved)


def case_correct_rows(sizes: Sizes) -> Case:
    """Every token that is not computed, from the computed ones before and after it in its row of
    the frame."""
    pred, new = (
        floats(sizes, sizes.batch, rows, sizes.channels) for rows in (sizes.length, sizes.count)
    )
    rows = row_lists(replace(sizes, lists=1))[0]
    chosen = rows[: sizes.count - sizes.padding]
    idle = torch.ones(sizes.length, device=sizes.device, dtype=torch.bool)
    idle[chosen.long()] = False
    targets = idle.nonzero().view(-1).to(torch.int32)
    around = torch.arange(-NEAR // 2, NEAR // 2, device=sizes.device)
    sources = torch.searchsorted(chosen, targets)[:, None] + around
    sources[(sources < 0) | (sources >= len(chosen))] = -1
    weight = torch.rand((sizes.batch, *sources.shape), device=sizes.device) / NEAR
    sources = sources.to(torch.int32)
    moved = (
        2 * sizes.nbytes(len(targets))
        + 2 * sizes.nbytes(len(sources[sources >= 0].unique()))
        + sources.nbytes
        + weight.nbytes
    )
    return Case("correct_rows", lambda: (pred, new, rows, targets, sources, weight), moved)


def case_scatter_kv(sizes: Sizes) -> Case:
    k_new, v_new = (floats(sizes, sizes.batch, sizes.count, sizes.channels) for _ in range(2))
    k_store, v_store = (floats(sizes, sizes.batch, sizes.length, sizes.channels) for _ in range(2))
    rows = row_lists(sizes)
    return Case(
        "scatter_kv",
        lambda: (k_new, v_new, rows, k_store.clone(), v_store.clone()),
        4 * sizes.nbytes(sizes.count),
    )


def case_scatter_kv_fp8(sizes: Sizes) -> Case:
    k_new, v_new = (floats(sizes, sizes.batch, sizes.count, sizes.channels) for _ in range(2))
    k_store, v_store = codes(sizes), codes(sizes)
    k_scale, v_scale, rows = scales(sizes), scales(sizes), row_lists(sizes)
    written = sizes.batch * sizes.count * (sizes.channels + 4 * sizes.heads)
    return Case(
        "scatter_kv",
        lambda: (
            *(k_new, v_new, rows, k_store.clone(), v_store.clone()),
            *(k_scale.clone(), v_scale.clone()),
        ),
        2 * sizes.nbytes(sizes.count) + 2 * written,
    )


def case_read_kv(sizes: Sizes) -> Case:
    given = (codes(sizes), codes(sizes), scales(sizes), scales(sizes))
    read = sizes.batch * sizes.length * (sizes.channels + 4 * sizes.heads)
    named = {"dtype": sizes.dtype, "length": sizes.length}
    moved = 2 * read + 2 * sizes.nbytes(sizes.length)
    return Case("read_kv", lambda: given, moved, named)


CASES: dict[str, Callable[[Sizes], Case]] = {
    case.__name__.removeprefix("case_"): case
    for case in (
        *(case_motion_map, case_motion_map_previous, case_accumulate_due, case_select_top),
        *(case_compact_rows, case_gather_rows, case_gather_rows_modulation),
        *(case_reuse_residual, case_reuse_residual_plain),
        *(case_store_residual, case_store_residual_plain),
        *(case_scatter_residual, case_scatter_residual_plain, case_correct_rows),
        *(case_scatter_kv, case_scatter_kv_fp8, case_read_kv),
    )
}
