"""What every place for a block's keys and values can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from ...common.protocols import TokenOps
from .transfers import Transfers


@dataclass(frozen=True, slots=True)
class KVShape:
    """Keys (or values) as the model's attention has them: `(batch, rows, width)`."""

    batch: int
    rows: int
    width: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, k: Tensor) -> KVShape:
        """The form of these keys."""
        batch, rows, width = k.shape
        return cls(batch, rows, width, k.dtype, k.device)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.batch, self.rows, self.width


@dataclass(slots=True)
class TierResources:
    """What the blocks of all branches on one device share.

    Attributes:
        heads: attention heads.
        ops: see `TokenOps`.
        transfers: copies between the host and the device.
    """

    heads: int
    ops: TokenOps
    transfers: Transfers = field(default_factory=Transfers)
    _zeros: Tensor | None = None

    def zeros(self, like: Tensor) -> Tensor:
        """Zeros of a shape, dtype and device, to be read only: one buffer for all blocks."""
        have = self._zeros
        fits = have is not None and (have.dtype, have.device) == (like.dtype, like.device)
        if have is None or not fits or have.numel() < like.numel():
            self._zeros = have = like.new_zeros(like.numel())
        return have[: like.numel()].view(like.shape)

    def nbytes(self) -> int:
        """Bytes on the device."""
        return self.transfers.nbytes() + (0 if self._zeros is None else self._zeros.nbytes)

    def release(self) -> None:
        """Give back what is shared."""
        self.transfers.release()
        self._zeros = None


class BlockKV(ABC):
    """Post-rotary keys and values of one block.

    Args:
        tensors: everything that is kept, `(B, L, *)` each: the keys, the values, and what is
            needed to read them.
    """

    tier: ClassVar[str]

    def __init__(self, shared: TierResources, form: KVShape, tensors: tuple[Tensor, ...]) -> None:
        self.shared, self.form, self.tensors = shared, form, tensors

    @classmethod
    @abstractmethod
    def empty(cls, shared: TierResources, form: KVShape) -> BlockKV:
        """New memory that is not written to."""

    @abstractmethod
    def write(self, k: Tensor, v: Tensor) -> None:
        """Replace the first rows by `(B, n, C)`."""

    @abstractmethod
    def read(self, length: int) -> tuple[Tensor, Tensor]:
        """At least the first `length` rows `(B, length, C)` in the model's dtype on its device.
        They stay valid until the second next read."""

    @abstractmethod
    def update(self, k: Tensor, v: Tensor, rows: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Replace the rows in `rows` `(1 or B, n)` int32, -1 is skipped, by `(B, n, C)`; all of
        them are below `length`. Returns what `read` would, with the new rows exact."""

    @classmethod
    def keeping(cls, shared: TierResources, k: Tensor, v: Tensor, old: BlockKV | None) -> BlockKV:
        """Keep these. The memory of `old` is used again where it fits."""
        fits = type(old) is cls and old.form == KVShape.of(k)
        new = old if old is not None and fits else cls.empty(shared, KVShape.of(k))
        new.write(k, v)
        return new

    def prefetch(self, length: int) -> None:  # noqa: B027
        """The first `length` rows will be read next."""

    def settle(self) -> None:  # noqa: B027
        """Wait until the host may read and write the tensors where they are."""

    def nbytes(self) -> tuple[int, int]:
        """Bytes on the model's device, and in the host's memory besides."""
        return sum(t.nbytes for t in self.tensors), 0

    def part(self, batch: slice) -> BlockKV:
        """A view of some batch rows."""
        tensors = tuple(t[batch] for t in self.tensors)
        return type(self)(self.shared, replace(self.form, batch=len(tensors[0])), tensors)

    def resized(self, rows: int) -> BlockKV:
        """A copy with room for more rows."""
        new = self._like(rows=rows)
        new.paste(self, slice(0, self.form.rows))
        return new

    def without_first(self, rows: int) -> BlockKV:
        """A copy of all rows behind the first ones."""
        new = self._like(rows=self.form.rows - rows)
        new.paste(self, slice(rows, None))
        return new

    def with_first(self, held: int, k: Tensor, v: Tensor) -> BlockKV:
        """A copy whose first `held` rows are replaced by fewer or more `(B, n, C)`."""
        count = k.shape[1]
        new = self._like(rows=self.form.rows - held + count)
        new.paste(self, slice(held, None), at=count)
        new.write(k, v)
        return new

    def joined(self, others: Sequence[BlockKV]) -> BlockKV:
        """These batch rows and those of others in the same place."""
        parts = [self, *others]
        new, at = self._like(batch=sum(p.form.batch for p in parts)), 0
        for part in parts:
            new.paste(part, slice(None), first=at)
            at += part.form.batch
        return new

    def paste(self, source: BlockKV, rows: slice, *, at: int = 0, first: int = 0) -> None:
        """Copy rows of a block in the same place.

        Args:
            at: row that they go to.
            first: batch row that they go to.
        """
        source.settle()
        for here, there in zip(self.tensors, source.tensors, strict=True):
            taken = there[:, rows]
            here[first : first + len(taken), at : at + taken.shape[1]] = taken

    def _like(self, batch: int | None = None, rows: int | None = None) -> BlockKV:
        form = self.form
        batch, rows = form.batch if batch is None else batch, form.rows if rows is None else rows
        return self.empty(self.shared, replace(form, batch=batch, rows=rows))
