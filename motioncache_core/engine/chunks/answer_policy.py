"""Chunks whose velocity is foretold from their last ones, at the steps a plan leaves out (ours)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...common.decision_kinds import DENSE, REUSE
from ...common.protocols import TokenOps
from ...models.magi1.chunk_call import ChunkCall
from ...models.magi1.network import PATCH
from ...policy.answer_plan import AnswerPlan
from ..answers.pass_state import PassState
from .chunk_policy import ChunkChoice


class AnswerPolicy:
    """A `ChunkPolicy`: every chunk is computed at the steps of one plan, counted from its start.

    What the guidance has made of a chunk's passes is one answer.
    """

    def __init__(self, plan: AnswerPlan, ops: TokenOps) -> None:
        self._plan, self._ops = plan, ops
        self._states: dict[int, PassState] = {}
        self._fresh: list[int] = []
        self._network: object = None

    def decide(self, active: Mapping[int, int], call: ChunkCall) -> dict[int, ChunkChoice]:
        self._network, self._fresh = call.network, []
        self._states = {c: s for c, s in self._states.items() if c in active}
        return {
            chunk: ChunkChoice(
                REUSE if chunk in self._states and step not in self._plan.computed else DENSE
            )
            for chunk, step in active.items()
        }

    def told(self, chunk: int, step: int, x: Tensor) -> Tensor:
        return self._states[chunk].reuse(step, x.contiguous(), 1.0, self._ops)

    def took(
        self, chunk: int, step: int, x: Tensor, velocity: Tensor, choice: ChunkChoice
    ) -> Tensor:
        state = self._states.get(chunk)
        if state is None:
            ledger = self._plan.ledger()
            state = PassState(self._network, velocity, ledger, clean=True)
            self._states[chunk] = state
        self._fresh.append(chunk)
        # velocities in the place of clean latents: neither depends on the latents
        return state.store(step, velocity, velocity, 1.0, self._ops)

    def changes(self) -> dict[int, Tensor]:
        found = {c: self._states[c].video_change((1, PATCH, PATCH)) for c in self._fresh}
        return {c: change for c, change in found.items() if change is not None}

    def nbytes(self) -> int:
        return sum(state.nbytes() for state in self._states.values())

    def drop(self) -> None:
        self._states.clear()
        self._fresh = []
