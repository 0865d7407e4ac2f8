"""Chunks and tokens by how far their latents have come: MotionCache and FlowCache on MAGI-1."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...common.decision_kinds import DENSE, PARTIAL
from ...models.magi1.chunk_call import ChunkCall
from ...models.magi1.network import PATCH
from ...models.magi1.options import CHUNK_FRAMES, STAGES
from ...models.magi1.steps import ChunkSteps
from ...policy.chunk_phases import ChunkPhases, PhaseRules, Verdict, frame_difference_weights
from .chunk_policy import ChunkChoice


class PhasePolicy:
    """A `ChunkPolicy` by thresholds.

    Args:
        iterations: of the run.
        published: what is reused is what the last step added to the latents; rows that are
            computed alone attend to the chunks that the oldest chunk may look at; and the last
            iteration reuses the tokens that the one before it did. Else (ours) what is reused is
            the velocity, times the length of the step that reuses it, rows attend to what their
            chunk may look at, and the last iteration is computed.
    """

    def __init__(
        self,
        rules: PhaseRules,
        steps: ChunkSteps,
        tokens: int,
        iterations: int,
        published: bool,
    ) -> None:
        self._steps, self._iterations, self._published = steps, iterations, published
        self._rules, self._tokens = rules, tokens
        self._phases = ChunkPhases(rules, tokens)
        # latents of the chunks at work in the last iteration, and what was last given of each
        self._before: dict[int, Tensor] = {}
        self._given: dict[int, Tensor] = {}

    def decide(self, active: Mapping[int, int], call: ChunkCall) -> dict[int, ChunkChoice]:
        x, it = call.x, call.forcing.iteration
        frames = it.chunk_frames()
        weights = {c: self._weight(x, frames[c]) for c in self._weighed(active)}
        changes: dict[int, Tensor] = {}
        if 0 < it.index < self._iterations - 1:
            for c in active:
                if c in self._before:
                    changes[c] = self._change(call, x[:, :, frames[c]], self._before[c])
        verdicts = self._phases.decide(active, changes, weights)
        if not self._published and it.index == self._iterations - 1:
            verdicts = {c: Verdict(DENSE, "last") for c in active}
        self._begin(x, frames, active)
        oldest = min(active)
        sees = (self._steps.first_seen(oldest, active[oldest]), oldest)
        return {
            c: self._choice(v, weights.get(c), sees, self._mixes(c == oldest, active[c]))
            for c, v in verdicts.items()
        }

    def told(self, chunk: int, step: int, x: Tensor) -> Tensor:
        return self._given[chunk]

    def took(
        self, chunk: int, step: int, x: Tensor, velocity: Tensor, choice: ChunkChoice
    ) -> Tensor:
        if choice.kind == PARTIAL and choice.rows is not None:
            computed = torch.zeros(self._tokens, dtype=torch.bool, device=x.device)
            computed.index_fill_(0, choice.rows, True)
            cells = computed.view(CHUNK_FRAMES, x.shape[3] // PATCH, x.shape[4] // PATCH)
            wide = cells.repeat_interleave(PATCH, dim=1).repeat_interleave(PATCH, dim=2)
            velocity = torch.where(wide, velocity, self._given[chunk])
        self._given[chunk] = velocity
        return velocity

    def changes(self) -> dict[int, Tensor]:
        return {}

    def nbytes(self) -> int:
        kept = (*self._before.values(), *self._given.values())
        return sum(t.nbytes for t in kept) + self._phases.nbytes()

    def drop(self) -> None:
        self._before, self._given = {}, {}
        self._phases = ChunkPhases(self._rules, self._tokens)

    def _weighed(self, active: Mapping[int, int]) -> list[int]:
        return [c for c, k in active.items() if c in self._before and self._rules.by_tokens(k)]

    def _weight(self, x: Tensor, frames: slice) -> Tensor:
        before = x[0, :, frames.start - 1] if frames.start else None
        return frame_difference_weights(x[0, :, frames], before, self._rules.floor)

    def _change(self, call: ChunkCall, x: Tensor, before: Tensor) -> Tensor:
        """Mean change of the embedded latents, to their mean size."""
        new, old = (call.network.embed(t).float() for t in (x, before))
        return (new - old).abs().mean() / (old.abs().mean() + 1e-8)

    def _begin(self, x: Tensor, frames: list[slice], active: Mapping[int, int]) -> None:
        """Take leave of the last iteration: what it moved, and where the next starts."""
        self._given = {c: v for c, v in self._given.items() if c in active}
        if self._published:
            for c in self._given:
                moved = x[:, :, frames[c]] - self._before[c]
                self._given[c] = moved / self._length(active[c])
        self._before = {c: x[:, :, frames[c]].clone() for c in active}

    def _length(self, step: int) -> float:
        sigmas = self._steps.sigmas
        return sigmas[step] - sigmas[step + 1]

    def _mixes(self, oldest: bool, step: int) -> bool:
        """Whether the chunk's copy is seen alone, for which there are no kept keys."""
        near_clean = self._steps.options.near_clean
        return near_clean and oldest and self._steps.stage(step) == STAGES - 1

    def _choice(
        self, v: Verdict, weight: Tensor | None, sees: tuple[int, int], mixes: bool
    ) -> ChunkChoice:
        if v.kind != PARTIAL or v.reused is None:
            return ChunkChoice(v.kind, v.phase, v.distance, weight=weight)
        if mixes:
            return ChunkChoice(DENSE, v.phase, v.distance, weight=weight)
        # computed rows first, in their order; how many there are is known on the host
        order = torch.argsort(v.reused.to(torch.uint8), stable=True)
        rows = order[: self._tokens - v.count]
        return ChunkChoice(
            PARTIAL, v.phase, v.distance, rows, weight, sees if self._published else None
        )
