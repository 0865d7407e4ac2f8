"""The random control: as many rows as a motion run computes, in every call, at random places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from motioncache_pack import kernels
from torch import Tensor


@dataclass
class Recorder:
    """The kernels, and a note of which rows every decision about single tokens came to."""

    tape: list[Tensor] = field(default_factory=list)
    _rounding: bool = False

    def __getattr__(self, name: str) -> Any:
        return getattr(kernels, name)

    def accumulate_due(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        due, count = kernels.accumulate_due(*args, **kwargs)
        self.tape.append(due.clone())
        self._rounding = True
        return due, count

    def select_top(self, score: Tensor, count: Tensor) -> Tensor:
        due = kernels.select_top(score, count)
        if self._rounding:
            # rounds the count of the decision before up
            self.tape.pop()
        self.tape.append(due.clone())
        self._rounding = False
        return due


class Player:
    """The kernels, but rows are as many as on a tape, at random positions: the control that
    motion has to beat. They are the same in all frames of a chunk, but for shares."""

    def __init__(self, tape: Sequence[Tensor], seed: int) -> None:
        self._tape = iter(tape)
        self._rng = torch.Generator().manual_seed(seed)
        self._rounding = False

    def __getattr__(self, name: str) -> Any:
        return getattr(kernels, name)

    def accumulate_due(
        self, accumulator: Tensor, *args: Any, frames: int, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        due = self._drawn(accumulator, frames)
        self._rounding = True
        return due, due.sum(dtype=torch.int32).reshape(1)

    def select_top(self, score: Tensor, count: Tensor) -> Tensor:
        if self._rounding:
            self._rounding = False
            return kernels.select_top(score, count)
        # a share of the tokens, each for itself
        return self._drawn(score, 1)

    def _drawn(self, like: Tensor, parts: int) -> Tensor:
        due = next(self._tape)
        if due.numel() != like.numel():
            raise ValueError(
                f"the tape has {due.numel()} rows, the chunk {like.numel()}: it is not of "
                "the same clip and settings"
            )
        due = due.view(parts, -1)
        order = torch.randperm(due.shape[1], generator=self._rng)
        return due[:, order].flatten().contiguous()
