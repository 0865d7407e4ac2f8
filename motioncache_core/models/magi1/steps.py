"""When a chunk of MAGI-1 is at which noise level, and what it may look at there."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ...sampling.options import ForcingOptions
from .options import CHUNK_FRAMES, EARLY, STAGES, MagiOptions

# what finished chunks are shown at
CLEAN_TIME = 0.9999
# chunks that a chunk may look at in each of its stages, its own among them
_REACH = (5, 4, 3, 2)
_TWELVE = 12
# of 12 steps: where the three steps of a quarter start, and their lengths in quarters of it
_STARTS = {EARLY: (0.0, 0.125, 0.1875), "late": (0.0, 0.0625, 0.125)}
_LENGTHS = {EARLY: (2, 1, 1), "late": (1, 1, 2)}
_SHIFT = 1.0 / 3.0


class ChunkSteps:
    """The steps of every chunk (MAGI-1, arXiv 2505.13211).

    Attributes:
        times: `(steps + 1,)` fp32 on the CPU, from 0, noise, to 1, clean.
    """

    def __init__(self, options: MagiOptions) -> None:
        self.options = options
        self.times = _times(options)

    @cached_property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels of the steps and the one they end at; rounding takes the last time
        beyond 1."""
        return tuple(max(0.0, 1.0 - t) for t in self.times.tolist())

    @cached_property
    def forcing(self) -> ForcingOptions:
        """The same as a diffusion-forcing sampler knows it."""
        return ForcingOptions(
            chunk_frames=CHUNK_FRAMES,
            chunk_delay=self.options.steps // self.options.window,
            solver="euler",
        )

    def stage(self, step: int) -> int:
        """The quarter of its steps, 0 to 3, that a chunk is in."""
        return STAGES * step // self.options.steps

    def first_seen(self, chunk: int, step: int) -> int:
        """The oldest chunk that a chunk may look at in this step."""
        if self.options.kv_keep:
            return 0
        return max(0, chunk + 1 - _REACH[self.stage(step)])

    def oldest_needed(self, active: dict[int, int]) -> int:
        """The oldest chunk that any chunk will look at from now on.

        Args:
            active: step of every chunk at work, by its number.
        """
        coming = max(active) + 1
        return min(self.first_seen(c, k) for c, k in (*active.items(), (coming, 0)))

    def step_size(self, step: int) -> float:
        """What the distilled model is told of the step's length: longer steps, smaller numbers."""
        if self.options.steps == _TWELVE:
            lengths = _LENGTHS[self.options.twelve_steps]
            return 8.0 / lengths[step % len(lengths)]
        return 2.0 * self.options.steps / STAGES


def _times(options: MagiOptions) -> Tensor:
    if options.steps == _TWELVE:
        start = torch.tensor(_STARTS[options.twelve_steps])
        quarters = [start + quarter for quarter in (0.0, 0.25, 0.5, 0.75)]
        even = torch.cat((*quarters, torch.ones(1)))
    else:
        even = torch.linspace(0, 1, options.steps + 1)
    squared = even**2
    return _SHIFT * squared / (1 + (_SHIFT - 1) * squared)
