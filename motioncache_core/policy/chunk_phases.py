"""MotionCache's decisions on MAGI-1, chunk by chunk, as published (arXiv 2605.01725).

A chunk is computed for its first steps; then it is reused as a whole until its accumulated change
reaches a threshold; then each of its tokens is, with its change weighed by motion. With the last
phase put off for ever that is FlowCache (arXiv 2602.10825).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..common.decision_kinds import DENSE, PARTIAL, REUSE
from ..common.host_transfer import joined, read


@dataclass(frozen=True, slots=True)
class PhaseRules:
    """Numbers of the method.

    Attributes:
        threshold: accumulated change at which a chunk is computed again.
        token_threshold: the same of a token.
        warm_up: steps of a chunk at its start that are computed.
        chunk_steps: its steps after these in which it is reused or computed as a whole; None is
            all of them.
        floor: the least motion weight.
    """

    threshold: float = 0.0065
    token_threshold: float = 0.0065
    warm_up: int = 5
    chunk_steps: int | None = 20
    floor: float = 0.6

    def by_tokens(self, step: int) -> bool:
        """Whether single tokens are told apart in this step."""
        return self.chunk_steps is not None and step >= self.warm_up + self.chunk_steps


@dataclass(slots=True)
class ChunkPhase:
    """What is remembered of one chunk.

    Attributes:
        due: of each token `(N,)` fp32, change since it was computed; None before it is told apart.
        mask: `(N,)` bool, tokens to reuse.
        count: of these, as of the last reading.
    """

    accumulated: float = 0.0
    due: Tensor | None = None
    mask: Tensor | None = None
    count: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is decided for a chunk: `kind`, `phase` and `distance` as in a record of it; `reused`
    `(N,)` bool where it is computed in part, and how many rows are not."""

    kind: str
    phase: str
    distance: float | None = None
    reused: Tensor | None = None
    count: int = 0


@dataclass(slots=True)
class ChunkPhases:
    """All chunks of a run.

    Args:
        tokens: of a chunk.
    """

    rules: PhaseRules
    tokens: int
    _chunks: dict[int, ChunkPhase] = field(default_factory=dict)

    def decide(
        self,
        active: Mapping[int, int],
        changes: Mapping[int, Tensor],
        weights: Mapping[int, Tensor],
    ) -> dict[int, Verdict]:
        """One iteration. Reads from the device once.

        Args:
            active: step of every chunk at work, by its number.
            changes: of chunks that were at work in the step before, how far they have come since
                then, 0-d fp32. None at all in the run's first and last iteration, where nothing is
                decided and tokens that were to be reused are reused once more.
            weights: motion weights `(N,)` fp32 of the chunks whose tokens are told apart.
        """
        self._chunks = {c: s for c, s in self._chunks.items() if c in active}
        for chunk, step in active.items():
            state = self._chunks.setdefault(chunk, ChunkPhase())
            if chunk in changes and self.rules.by_tokens(step):
                self._weigh(state, changes[chunk], weights[chunk])
        distances = self._read(changes)
        return {
            chunk: self._verdict(self._chunks[chunk], step, distances.get(chunk))
            for chunk, step in active.items()
        }

    def _weigh(self, state: ChunkPhase, change: Tensor, weight: Tensor) -> None:
        due = weight.new_zeros(self.tokens) if state.due is None else state.due
        due = due + change * weight
        state.mask = due < self.rules.token_threshold
        state.due = torch.where(state.mask, due, 0.0)

    def _read(self, changes: Mapping[int, Tensor]) -> dict[int, float]:
        if not changes:
            return {}
        counted = [c for c in changes if self._chunks[c].mask is not None]
        counts = [self._chunks[c].mask for c in counted]
        numbers = read(joined([*changes.values(), *(m.sum() for m in counts if m is not None)]))
        for chunk, count in zip(counted, numbers[len(changes) :], strict=True):
            self._chunks[chunk].count = int(count)
        return dict(zip(changes, numbers, strict=False))

    def _verdict(self, state: ChunkPhase, step: int, distance: float | None) -> Verdict:
        rules = self.rules
        if rules.by_tokens(step):
            if state.mask is None or state.count == 0:
                return Verdict(DENSE, "motion", distance)
            if state.count == self.tokens:
                return Verdict(REUSE, "motion", distance)
            return Verdict(PARTIAL, "motion", distance, state.mask, state.count)
        if step < rules.warm_up:
            state.accumulated = 0.0
            return Verdict(DENSE, "warm-up", distance)
        if distance is None:
            return Verdict(DENSE, "last")
        state.accumulated += distance
        if state.accumulated < rules.threshold:
            return Verdict(REUSE, "uniform", distance)
        state.accumulated = 0.0
        return Verdict(DENSE, "uniform", distance)

    def nbytes(self) -> int:
        """Bytes of what is remembered."""
        held = (t for s in self._chunks.values() for t in (s.due, s.mask) if t is not None)
        return sum(t.nbytes for t in held)


def frame_difference_weights(frames: Tensor, before: Tensor | None, floor: float) -> Tensor:
    """Motion weights of a chunk's tokens from its noisy latents: `(f * h * w,)` fp32.

    Mean difference to the frame before over channels and the 2 x 2 cells of a token, stretched in
    every frame to [floor, 1], as published.

    Args:
        frames: `(C, f, H, W)` fp32.
        before: the frame before them `(C, H, W)`; None weighs the first with 1.
    """
    f, h, w = frames.shape[1:]
    previous = frames[:, :1] if before is None else before[:, None]
    moved = (frames - torch.cat((previous, frames[:, :-1]), dim=1)).abs().mean(dim=0)
    cells = moved.view(f, h // 2, 2, w // 2, 2).mean(dim=(2, 4)).flatten(1)
    low, high = cells.amin(dim=1, keepdim=True), cells.amax(dim=1, keepdim=True)
    stretched = floor + (1 - floor) * ((cells - low) / (high - low))
    weights: Tensor = torch.where(high > low, stretched, 1.0).flatten()
    return weights
