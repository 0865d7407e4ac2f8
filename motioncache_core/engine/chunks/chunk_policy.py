"""What decides, chunk by chunk, whether the network is evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ...common.decision_kinds import DENSE
from ...models.magi1.chunk_call import ChunkCall


@dataclass(frozen=True, slots=True)
class ChunkChoice:
    """What becomes of a chunk in one step.

    Attributes:
        kind: computed, reused, or some of its rows computed.
        phase: why, in a word.
        distance: how far it has come since the step before, where that decides.
        rows: tokens `(n,)` int64 to compute of a chunk that is computed in part.
        weight: motion weights of its tokens `(N,)` fp32, where they decide.
        sees: the first and the last chunk that these rows attend to; None are those of the chunk.
    """

    kind: str = DENSE
    phase: str = ""
    distance: float | None = None
    rows: Tensor | None = None
    weight: Tensor | None = None
    sees: tuple[int, int] | None = None


class ChunkPolicy(Protocol):
    """One run's decisions, and what is remembered for chunks that are not computed."""

    def decide(self, active: Mapping[int, int], call: ChunkCall) -> dict[int, ChunkChoice]:
        """For every chunk at work, by its number.

        Args:
            active: step of each of them, by its number.
        """

    def told(self, chunk: int, step: int, x: Tensor) -> Tensor:
        """The velocity of a chunk that is not computed, `(1, C, f, H, W)` fp32."""

    def took(
        self, chunk: int, step: int, x: Tensor, velocity: Tensor, choice: ChunkChoice
    ) -> Tensor:
        """The velocity to give for one that was computed."""

    def changes(self) -> dict[int, Tensor]:
        """Of chunks that the last step has computed, what the report shows of their tokens
        `(N,)` fp32."""

    def nbytes(self) -> int:
        """Bytes of what is remembered."""

    def drop(self) -> None:
        """Keep nothing."""
