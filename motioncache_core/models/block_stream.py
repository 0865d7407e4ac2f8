"""The rows that pass through a family's blocks, and how a part of them is handed to a block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..common.protocols import TokenOps
from ..common.token_layout import TokenLayout

Arguments = dict[str, Any]

# under which key of a call's options its blocks find the rows in front of the video's and behind
# them, where nothing that the host hands over tells them
ROWS_AROUND = "motioncache_rows_around"
# frames, rows and columns of the tokens, for blocks that are hidden
GRID = "motioncache_grid"


@dataclass(frozen=True, slots=True)
class BlockStream:
    """What enters one block, or leaves it.

    Attributes:
        tokens: `(B, S, C)`.
        before, behind: rows in front of the video rows and behind them, text for instance. They
            are always computed.
        modulation: timestep modulation `(T, 6, C)` of a batch row, T of 1 or the latent frames;
            None where a family has none that tells how far the answer moved.
        variant: what compiled code depends on besides the tokens' shape.
    """

    tokens: Tensor
    before: int = 0
    behind: int = 0
    modulation: Callable[[int], Tensor] | None = None
    variant: tuple[int, ...] = ()

    @property
    def video(self) -> Tensor:
        """The video rows, a view."""
        return self.tokens[:, self.before : self.tokens.shape[1] - self.behind]

    def others(self, before: int, behind: int) -> Tensor | None:
        """The rows next to the video's, so many in front of it and behind it; None without."""
        if not before and not behind:
            return None
        end = self.tokens.shape[1] - self.behind
        first = self.tokens[:, self.before - before : self.before]
        return torch.cat((first, self.tokens[:, end : end + behind]), dim=1)

    def with_video(self, video: Tensor) -> Tensor:
        """The tokens with other video rows, which may be more or fewer."""
        if not self.before and not self.behind:
            return video
        end = self.tokens.shape[1] - self.behind
        return torch.cat((self.tokens[:, : self.before], video, self.tokens[:, end:]), dim=1)


class RowGather:
    """The active video rows of one partial call.

    Args:
        rows: `(1 or B, n)` int32, ascending, padded with -1.
        tokens: video rows L.
        frames: ranges of active latent frames, where only whole frames are active.
        multiple: what the number of rows has to be a multiple of; padding fills it up.
    """

    def __init__(
        self,
        ops: TokenOps,
        rows: Tensor,
        tokens: int,
        frames: Sequence[slice] | None = None,
        multiple: int = 1,
    ) -> None:
        self.ops, self.rows, self.tokens, self.frames = ops, rows, tokens, frames
        self.multiple = multiple
        self._gathered: dict[int, tuple[Tensor, Tensor]] = {}
        self._order: Tensor | None = None
        self._around: dict[tuple[int, int], Tensor] = {(0, 0): rows} if multiple == 1 else {}

    def padding(self, before: int, behind: int) -> int:
        """How many rows of padding stand behind the rows `around`."""
        return -(before + self.rows.shape[1] + behind) % self.multiple

    def around(self, before: int, behind: int) -> Tensor:
        """The rows to compute `(1 or B, before + n + behind + padding)` int32 of a sequence that
        has other rows around the video's: all of those, and the active ones."""
        key = before, behind
        if key not in self._around:
            rows, device = self.rows, self.rows.device
            shifted = torch.where(rows < 0, -1, rows + before)
            first = torch.arange(before, dtype=torch.int32, device=device)
            start = before + self.tokens
            last = torch.arange(start, start + behind, dtype=torch.int32, device=device)
            filled = rows.new_full((self.padding(before, behind),), -1)
            parts = [part.expand(rows.shape[0], -1) for part in (first, last, filled)]
            self._around[key] = torch.cat((parts[0], shifted, *parts[1:]), dim=1)
        return self._around[key]

    @property
    def active_last(self) -> Tensor:
        """All video rows `(L,)` int64: those that are not active, then those that are."""
        if self._order is None:
            active = torch.zeros(self.tokens, dtype=torch.uint8, device=self.rows.device)
            active[self.rows[0].long()] = 1
            self._order = torch.argsort(active, stable=True)
        return self._order

    def take(self, x: Tensor, before: int = 0, behind: int = 0) -> Tensor:
        """The rows `around` of `x` `(1 or B, S, ...)`; gathered once for all blocks that share
        it."""
        return self.once(x, lambda: self.alone(x, self.around(before, behind)))

    def alone(self, x: Tensor, rows: Tensor) -> Tensor:
        """Rows `(1 or B, m)` of `x` `(1 or B, S, ...)`, zeros for -1."""
        return like(self.ops.gather_rows(flat(x), rows)[0], x)

    def once(self, x: Tensor, gather: Callable[[], Tensor]) -> Tensor:
        """What `gather` makes of a tensor, made when it is first asked for."""
        # every block gets the same tensor, so one gather serves them all
        kept = self._gathered.get(id(x))
        if kept is None or kept[0] is not x:
            kept = x, gather()
            self._gathered[id(x)] = kept
        return kept[1]

    def keep(self, x: Tensor, gathered: Tensor) -> None:
        """`once` is to give this for `x`."""
        self._gathered[id(x)] = x, gathered

    def spread(self, x: Tensor, y: Tensor, before: int = 0, behind: int = 0) -> Tensor:
        """A copy of `x` `(B, S, C)` whose rows `around` are those of `y` `(B, m, C)`."""
        rows, length = self.around(before, behind), x.shape[1]
        if rows.shape[0] == 1 and not self.padding(before, behind):
            # one list for all batch rows has no padding
            return x.index_copy(1, self.once(rows, lambda: rows[0].long()), y)
        places = self.once(rows, lambda: torch.where(rows < 0, length, rows).long()[:, :, None])
        out = x.new_empty((x.shape[0], length + 1, x.shape[2]))
        out[:, :length] = x
        # padding goes to one row more, which is cut off
        return out.scatter_(1, places.expand_as(y), y)[:, :length]


@dataclass(frozen=True)
class KeySite:
    """An attention call of a block whose keys hold video rows.

    Attributes:
        call: which attention call of the block it is, from 1.
        around: rows of its keys in front of the video rows and behind them, from the block's
            arguments. They are fresh in every call.
        flat: the host's keys or values as `(B, S, C)`.
        shaped: `(B, S, C)` as the host's form, from it and the host's tensor.
        mask: whether a mask over the keys may come; it stays valid, as all keys are there.
        several_callers: whether the host's code that makes the call depends on the number of rows.
    """

    call: int = 1
    around: Callable[[Mapping[str, Any]], tuple[int, int]] = lambda args: (0, 0)
    flat: Callable[[Tensor], Tensor] = lambda keys: keys
    shaped: Callable[[Tensor, Tensor], Tensor] = lambda keys, host: keys
    mask: bool = False
    several_callers: bool = False


@dataclass(frozen=True)
class QuerySite:
    """An attention call of a block whose queries the host tells apart by their places.

    Attributes:
        call: which attention call of the block it is, from 1.
        attend: the answer for the rows of a gather, from it, the block's arguments, the host's
            attention and what that was called with.
    """

    call: int
    attend: Callable[..., Tensor]


def _nothing(args: Mapping[str, Any]) -> None:
    """What a block leaves undone when it is not run."""


@dataclass(frozen=True)
class Shadow:
    """How the network calls blocks that it has no hook for: they are hidden behind stand-ins.

    Attributes:
        name: the network's list of them.
        bind: a block's arguments by name, from what the network calls it with.
        call: the block's answer by name, from the block, such arguments, and the gather whose rows
            they are of, or None.
        answer: what the network is given of it.
        skip: what a block would have done besides, where it is not run.
    """

    name: str
    bind: Callable[..., Arguments]
    call: Callable[[Callable[..., Any], Arguments, RowGather | None], Arguments]
    answer: Callable[[Arguments], Any]
    skip: Callable[[Mapping[str, Any]], None] = _nothing


@dataclass(frozen=True)
class SideBlocks:
    """Blocks beside the stack, whose answers the host adds to the tokens between its blocks. They
    are hidden behind stand-ins, and have one key site each.

    Attributes:
        name: the network's list of them.
        take: what a block is called with, for the active rows alone, from its number too.
        skip: what it answers where nothing is computed, which must change nothing.
        site: the attention call that is kept.
    """

    name: str
    take: Callable[[int, tuple[Any, ...], Arguments, RowGather], tuple[tuple[Any, ...], Arguments]]
    skip: Callable[..., Any]
    site: KeySite


@dataclass(frozen=True)
class BlockRun:
    """Blocks of one kind that follow each other.

    Attributes:
        hook: first half of the key by which the host lets a block be replaced.
        stream: what enters a block, from its arguments.
        tokens: tokens `(B, S, C)` in a block's answer; rows around the video's are those that
            entered it.
        with_tokens: arguments or answer with other tokens.
        take: arguments for the active video rows alone, where the tokens have been gathered
            already: rotary and modulation rows, segments; everything else untouched.
        enter: the same for the first block of a call, its tokens gathered too.
        keys: the attention calls whose keys hold video rows.
        writes_input: whether a block writes into the tokens that it is given; the engine then
            keeps a copy of what entered the first one.
        call: runs a block of the network, by its number, where the host's own function for it
            cannot.
        beside, with_beside: tokens `(B, A, C)` of another kind that go through the same blocks,
            sound for instance, in arguments or answer; and those with others.
        full_length: whether the host works on all tokens between the blocks, token by token. Rows
            are then gathered in front of every block and spread behind it; what the host does to
            rows that are not active is read by nothing. `enter` is for every block.
        queries: the attention calls whose queries are told apart by their places.
        multiple: what the number of rows that enter a block has to be a multiple of, from all
            rows that do and the video's grid.
        shadow: how they are reached where the host does not let them be replaced.
    """

    hook: str
    stream: Callable[[Mapping[str, Any]], BlockStream]
    tokens: Callable[[Mapping[str, Any]], Tensor]
    with_tokens: Callable[[Mapping[str, Any], Tensor], Arguments]
    take: Callable[[Mapping[str, Any], RowGather], Arguments]
    enter: Callable[[Mapping[str, Any], RowGather], Arguments]
    keys: tuple[KeySite, ...]
    writes_input: bool = False
    call: Callable[[Any, int, Mapping[str, Any]], Arguments] | None = None
    beside: Callable[[Mapping[str, Any]], Tensor] | None = None
    with_beside: Callable[[Mapping[str, Any], Tensor], Arguments] | None = None
    full_length: bool = False
    queries: tuple[QuerySite, ...] = ()
    multiple: Callable[[int, TokenLayout], int] = lambda rows, layout: 1
    shadow: Shadow | None = None


def rows_around(args: Mapping[str, Any]) -> tuple[int, int]:
    """Rows in front of the video's and behind them, from a block's arguments."""
    found: tuple[int, int] = args.get("transformer_options", {}).get(ROWS_AROUND, (0, 0))
    return found


def flat(x: Tensor) -> Tensor:
    """`(B, S, ...)` as `(B, S, C)`, contiguous."""
    return x.reshape(*x.shape[:2], -1).contiguous()


def like(gathered: Tensor, source: Tensor) -> Tensor:
    """Gathered rows `(B, n, C)` in the form of their source `(B, S, ...)`."""
    return gathered.reshape(*gathered.shape[:2], *source.shape[2:])
