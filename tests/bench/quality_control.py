"""The random control: as many rows as a motion run computes, in every call, at random places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from common import load_pack
from torch import Tensor

load_pack()

from motioncache_pack import kernels  # noqa: E402


@dataclass
class Recorder:
    """The kernels, and a note of which rows every decision about single tokens came to."""

    tape: list[Tensor] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(kernels, name)

    def accumulate_due(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        due, count = kernels.accumulate_due(*args, **kwargs)
        self.tape.append(due.clone())
        return due, count

    def select_top(self, score: Tensor, count: Tensor) -> Tensor:
        # rounds the count of the decision before up
        due = kernels.select_top(score, count)
        self.tape[-1] = due.clone()
        return due


class Player:
    """The kernels, but rows are as many as on a tape, at random positions that are the same in
    all frames of a chunk: the control that motion has to beat."""

    def __init__(self, tape: Sequence[Tensor], seed: int) -> None:
        self._tape = iter(tape)
        self._rng = torch.Generator().manual_seed(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(kernels, name)

    def accumulate_due(
        self, accumulator: Tensor, *args: Any, frames: int, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        due = next(self._tape).view(frames, -1)
        if due.numel() != accumulator.numel():
            raise ValueError(
                f"the tape has {due.numel()} rows, the chunk {accumulator.numel()}: it is not of "
                "the same clip and settings"
            )
        order = torch.randperm(due.shape[1], generator=self._rng)
        due = due[:, order].flatten().contiguous()
        return due, due.sum(dtype=torch.int32).reshape(1)
