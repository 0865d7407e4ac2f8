"""What goes through the blocks of a call besides the video: rows around it, sound."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..cache.branches import BranchRows
from ..models.adapter import Around
from ..models.block_stream import ROWS_AROUND, BlockRun, BlockStream


class Beside:
    """All of it is computed whenever a block runs; where none does, what the blocks last added to
    it stands in, as the network may answer for it.

    Args:
        known: what stands around the video rows.
        tokens: video rows L.
    """

    def __init__(self, known: Around, tokens: int) -> None:
        self._known, self._tokens = known, tokens
        self._around = (0, 0)
        self._entered: list[Tensor] = []

    def mark(self, run: BlockRun, args: dict[str, Any]) -> None:
        """Leave what is around the video where all blocks of the call find it."""
        if self._known == Around():
            return
        before, behind = self._known.before, self._known.behind
        if behind is None:
            behind = max(0, run.stream(args).tokens.shape[1] - before - self._tokens)
        args["transformer_options"][ROWS_AROUND] = before, behind

    def enter(self, run: BlockRun, stream: BlockStream, args: dict[str, Any]) -> None:
        """The first block is about to run."""
        self._around = stream.before, stream.behind
        # few rows, and of tensors that blocks may write into
        self._entered = [tokens.clone() for tokens in self._others(run, stream, args)]

    def leave(
        self, run: BlockRun, stream: BlockStream, out: dict[str, Any], state: BranchRows
    ) -> None:
        """The last block has run: what all of them have added is kept."""
        now = self._others(run, stream, out)
        state.beside = [y - x for x, y in zip(self._entered, now, strict=True)]
        self._entered = []

    def reused(self, run: BlockRun, args: dict[str, Any], state: BranchRows) -> dict[str, Any]:
        """Arguments of a block, or its answer, with what the blocks last added."""
        stream = run.stream(args)
        self._around = stream.before, stream.behind
        now = self._others(run, stream, args)
        if not state.beside:
            return args
        added = [x + r for x, r in zip(now, state.beside, strict=True)]
        if run.with_beside is not None:
            args = run.with_beside(args, added.pop())
        if added:
            first, last = added[0].split(self._around, dim=1)
            args = run.with_tokens(args, torch.cat((first, stream.video, last), dim=1))
        return args

    def _others(self, run: BlockRun, stream: BlockStream, args: dict[str, Any]) -> list[Tensor]:
        around = stream.others(*self._around)
        sound = None if run.beside is None else run.beside(args)
        return [tokens for tokens in (around, sound) if tokens is not None]
