"""What is kept of each conditioning branch. Built new for each run, never reset."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..sampling.model_call import BranchKey
from .kv_bytes import CPU, usable
from .kv_store import KVStore
from .residual_placement import moved_to_host, settle


@dataclass(slots=True)
class BranchRows:
    """Cached tensors of the conditioning branches that run as one batch.

    Attributes:
        keys: the branches, in batch order.
        samples: batch rows of each branch.
        residual: block stack output minus input, `(B, L, C)`.
        slope: change of the residual per unit of sigma, same shape, where a forecast is on.
        kv: keys and values, None where none are kept.
        filled: whether a full evaluation has stored residuals.
        iteration: number of the last evaluation that the branches took part in.
        around: rows around the video's in the keys.
        view: whether the tensors are parts of a batch's.
        device: the model's, where residual and slope are in the host's memory; else None.
        beside: what the blocks added to the rows around the video's, `(B, P, C)`, and to tokens of
            another kind, as far as there are any.
    """

    keys: tuple[BranchKey, ...]
    samples: int
    residual: Tensor
    slope: Tensor | None
    kv: KVStore | None
    filled: bool = False
    iteration: int = -1
    device: torch.device | None = None
    around: int = 0
    beside: list[Tensor] = field(default_factory=list)
    view: bool = False

    def take_part(self, evaluation: int, least: int) -> None:
        """The branches are called in this evaluation. Ones that were last called before `least`
        know nothing of what changed meanwhile, and start afresh."""
        if self.filled and not least <= self.iteration <= evaluation:
            self.filled = False
            if self.slope is not None:
                if self.device is not None:
                    settle(self.device)
                self.slope.zero_()
        self.iteration = evaluation

    def fits(self, x: Tensor, around: int) -> bool:
        """Whether the cache was made for tokens like `x`, with so many rows around them."""
        r = self.residual
        own = r.shape, r.dtype, self.device or r.device, self.around
        return own == (x.shape, x.dtype, x.device, around)

    def has_room_to_give(self) -> bool:
        """Whether anything that is stored can still go elsewhere."""
        return self.device is None or bool(self.kv and self.kv.entries)

    def give_room(self) -> bool:
        """Residuals go to the host's memory, then keys and values one tier down.

        Returns:
            whether there is more room now.
        """
        return self.to_host() or bool(self.kv and self.kv.make_room())

    def to_host(self) -> bool:
        """Residual and slope move to the host's memory.

        Returns:
            whether they did.
        """
        device = self.residual.device
        if self.device is not None or CPU not in usable(device, self.residual.dtype):
            return False
        try:
            self._hold(moved_to_host(self._held(), device))
        except torch.OutOfMemoryError:
            return False
        self.device = device
        return True

    def _held(self) -> list[Tensor]:
        return [t for t in (self.residual, self.slope) if t is not None]

    def _hold(self, tensors: list[Tensor]) -> None:
        self.residual, self.slope = tensors[0], tensors[1] if len(tensors) > 1 else None

    def slide(self, rows: int, tokens: int, keep: bool) -> None:
        """The first rows leave, their keys and values only unless `keep`; new ones join up to
        `tokens`."""
        if self.device is not None:
            settle(self.device)
        slid = [_slid(t, rows, tokens) for t in self._held()]
        self._hold(slid if self.device is None else moved_to_host(slid, self.device))
        if self.kv is not None:
            self.kv.slide(rows, keep)

    def nbytes(self) -> tuple[int, int, int, int]:
        """Bytes of residual (and slope) on the model's device, of keys and values there, and of
        both in the host's memory."""
        size = sum(t.nbytes for t in self._held())
        kv, kv_host = self.kv.nbytes() if self.kv else (0, 0)
        return (size, kv, 0, kv_host) if self.device is None else (0, kv, size, kv_host)

    def split(self) -> list[BranchRows]:
        """One entry per branch, as views."""
        parts = []
        for i, key in enumerate(self.keys):
            rows = slice(i * self.samples, (i + 1) * self.samples)
            slope = None if self.slope is None else self.slope[rows]
            kv = None if self.kv is None else self.kv.rows(rows)
            parts.append(
                BranchRows(
                    (key,),
                    self.samples,
                    self.residual[rows],
                    slope,
                    kv,
                    self.filled,
                    self.iteration,
                    self.device,
                    self.around,
                    [added[rows] for added in self.beside],
                    view=True,
                )
            )
        return parts

    @classmethod
    def join(cls, parts: Sequence[BranchRows]) -> BranchRows:
        """Branches that come as one batch from now on."""
        device = next((p.device for p in parts if p.device is not None), None)
        if device is not None:
            # one that was moved there tells that the device lacks room for all
            if not all(p.device is not None or p.to_host() for p in parts):
                raise torch.OutOfMemoryError("residuals: the host's memory is full")
            settle(device)
        slopes = [p.slope for p in parts if p.slope is not None]
        stores = [p.kv for p in parts if p.kv is not None]
        beside = zip(*(p.beside for p in parts), strict=True)
        joined = cls(
            tuple(key for p in parts for key in p.keys),
            parts[0].samples,
            torch.cat([p.residual for p in parts]),
            torch.cat(slopes) if len(slopes) == len(parts) else None,
            KVStore.join(stores) if len(stores) == len(parts) else None,
            all(p.filled for p in parts),
            min(p.iteration for p in parts),
            device,
            parts[0].around,
            [torch.cat(added) for added in beside],
        )
        if device is not None:
            joined._hold(moved_to_host(joined._held(), device))
        return joined


@dataclass(slots=True)
class BranchTable:
    """All branches of a run, however the host batches them."""

    entries: dict[BranchKey, BranchRows] = field(default_factory=dict)

    def find(self, keys: tuple[BranchKey, ...], x: Tensor, around: int = 0) -> BranchRows | None:
        """The cache of these branches in this order; None if one is new or of another shape."""
        owners = [self.entries.get(key) for key in keys]
        if any(owner is None for owner in owners):
            return None
        found = [owner for owner in owners if owner is not None]
        if found[0].keys == keys:
            return found[0] if found[0].fits(x, around) else None
        for owner in {id(o): o for o in found}.values():
            for part in owner.split():
                self.entries[part.keys[0]] = part
        parts = [self.entries[key] for key in keys]
        if len({(p.samples, p.residual.shape[1:], p.around) for p in parts}) > 1:
            return None
        joined = parts[0] if len(parts) == 1 else BranchRows.join(parts)
        if not joined.fits(x, around):
            return None
        self.put(joined)
        return joined

    def keep(self, keys: Collection[BranchKey]) -> None:
        """Drop all branches but these."""
        if all(key in keys for key in self.entries):
            return
        for owner in self._all():
            parts = [owner] if all(key in keys for key in owner.keys) else owner.split()
            for part in parts:
                if any(key not in keys for key in part.keys):
                    del self.entries[part.keys[0]]
                elif part.view:
                    self._own(part)

    def _own(self, part: BranchRows) -> None:
        """A view keeps the memory of those that were beside it."""
        try:
            self.put(BranchRows.join([part]))
        except torch.OutOfMemoryError:
            for key in part.keys:
                self.entries.pop(key, None)

    def forget(self, keys: Sequence[BranchKey]) -> None:
        """Drop these branches, and those that share a batch with one of them."""
        for owner in [self.entries[key] for key in keys if key in self.entries]:
            for key in owner.keys:
                if self.entries.get(key) is owner:
                    del self.entries[key]

    def put(self, rows: BranchRows) -> None:
        """Remember these branches, replacing what was known of them."""
        for key in rows.keys:
            self.entries[key] = rows

    def slide(self, rows: int, tokens: int, keep: bool) -> None:
        """`BranchRows.slide` for every branch."""
        for branch in self._all():
            branch.slide(rows, tokens, keep)

    def nbytes(self) -> tuple[int, int, int, int]:
        """`BranchRows.nbytes` over all branches."""
        sizes = [(0, 0, 0, 0), *(rows.nbytes() for rows in self._all())]
        first, second, third, fourth = (sum(s) for s in zip(*sizes, strict=True))
        return first, second, third, fourth

    def on_host(self) -> bool:
        """Whether a branch's residuals are in the host's memory."""
        return any(rows.device is not None for rows in self._all())

    def forget_kv(self) -> None:
        """Keep no keys and values."""
        for rows in self._all():
            rows.kv = None

    def _all(self) -> list[BranchRows]:
        return list({id(r): r for r in self.entries.values()}.values())


def _slid(x: Tensor, rows: int, tokens: int) -> Tensor:
    out = x.new_zeros(x.shape[0], tokens, *x.shape[2:])
    out[:, : x.shape[1] - rows] = x[:, rows:]
    return out
