"""Arguments of every op at a given size, and the bytes that it must move at least.

One file an op, whose `CASES` are the ways of calling it, by a name each; the one without a name is
how the engine calls it most. The tests of the contract and of the reference take them at small
sizes, tests/gpu and the bench on a device, and tests/aot at Wan's sizes on the device "meta".
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from motioncache_pack import kernels
from torch import Tensor

E4M3 = torch.float8_e4m3fn


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

    @property
    def chosen(self) -> int:
        return self.count - self.padding

    def nbytes(self, rows: int) -> int:
        """Bytes of `[B, rows, C]`."""
        return self.batch * rows * self.channels * self.dtype.itemsize


@dataclass(frozen=True)
class Case:
    """One way of calling an op.

    Attributes:
        make: gives the arguments; fresh ones where the op writes into them.
        moved: bytes that must be read or written at least.
        small: whether the op works on few numbers a token and is bound by its launches.
    """

    op: str
    make: Callable[[], tuple[Any, ...]]
    moved: int
    named: Mapping[str, Any] = field(default_factory=dict)
    small: bool = False

    def arguments(self) -> tuple[Any, ...]:
        """All arguments, in the order of the op's schema."""
        bound = inspect.signature(getattr(kernels, self.op)).bind(*self.make(), **self.named)
        bound.apply_defaults()
        return tuple(bound.arguments.values())


def floats(sizes: Sizes, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.randn(shape, device=sizes.device, dtype=dtype or sizes.dtype)


def rows_of(sizes: Sizes, rows: int, width: int | None = None) -> Tensor:
    """`[B, rows, C]`."""
    return floats(sizes, sizes.batch, rows, width or sizes.channels)


def video(sizes: Sizes) -> tuple[int, ...]:
    """The shape of what Wan's patches of 2 x 2 are cut from, which has 16 channels."""
    return (sizes.batch, 16, sizes.frames, 2, 2 * sizes.tokens)


def row_lists(sizes: Sizes) -> Tensor:
    """Ascending random rows `[lists, count]`, padded at the end."""
    rows = torch.full((sizes.lists, sizes.count), -1, device=sizes.device, dtype=torch.int32)
    for one in rows:
        picks = torch.randperm(sizes.length, device=sizes.device)[: sizes.chosen]
        one[: sizes.chosen] = picks.sort().values
    return rows


def inverse_lists(sizes: Sizes) -> Tensor:
    """Places of the rows in random lists `[lists, L]`, or -1."""
    inverse = torch.full((sizes.lists, sizes.length), -1, device=sizes.device, dtype=torch.int32)
    places = torch.arange(sizes.chosen, device=sizes.device, dtype=torch.int32)
    for one in inverse:
        picks = torch.randperm(sizes.length, device=sizes.device)[: sizes.chosen]
        one[picks.sort().values] = places
    return inverse


def per_token(sizes: Sizes) -> Tensor:
    values = torch.rand(sizes.length, device=sizes.device) + 0.1
    # some noise levels did not move
    return values.masked_fill_(torch.rand_like(values) < 0.1, 0.0)


def codes(sizes: Sizes) -> Tensor:
    """A float8_e4m3fn store `[B, L, C]` of finite numbers."""
    shape = (sizes.batch, sizes.length, sizes.channels)
    magnitude = torch.randint(0x7F, shape, device=sizes.device, dtype=torch.uint8)
    sign = torch.randint(2, shape, device=sizes.device, dtype=torch.uint8) << 7
    return (magnitude | sign).view(E4M3)


def int8_codes(sizes: Sizes) -> Tensor:
    shape = (sizes.batch, sizes.length, sizes.channels)
    return torch.randint(-127, 128, shape, device=sizes.device, dtype=torch.int8)


def scales(sizes: Sizes) -> Tensor:
    shape = (sizes.batch, sizes.length, sizes.heads)
    return torch.rand(shape, device=sizes.device) + 0.01


def _found() -> dict[str, Callable[[Sizes], Case]]:
    """Every case by its op's name and its own."""
    return {
        "_".join(filter(None, (op, name))): make
        for op in kernels.ops.__all__
        for name, make in importlib.import_module(f"{__name__}.{op}").CASES.items()
    }


CASES = _found()
