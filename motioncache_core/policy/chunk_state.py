"""What the policy remembers of one chunk."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LEVEL_ROUNDING = 1e-4


@dataclass(slots=True)
class ChunkState:
    """What the policy remembers of one chunk.

    Attributes:
        rows: the chunk's token rows.
        frames: its latent frames.
        evaluations: evaluations seen, the current one included.
        updates: full updates in the uniform phase.
        accumulated: change since the last update while all tokens are treated alike.
        waited: reuses since the last update while all tokens are treated alike.
        accumulator, stale: the same per token `(N,)`, fp32 and int32, from the motion phase on.
        weights: motion weights `(N,)` fp32; None before the first motion map.
        signal: what the distance measure kept of the last evaluation.
        sigma, sigma_before: noise levels of the last evaluation and of the one before it.
        seen: whether the chunk was in an evaluation, computed or not.
    """

    rows: slice
    frames: int
    device: torch.device
    evaluations: int = 0
    updates: int = 0
    accumulated: float = 0.0
    waited: int = 0
    accumulator: Tensor | None = None
    stale: Tensor | None = None
    weights: Tensor | None = None
    signal: Tensor | None = None
    sigma: float | None = None
    sigma_before: float | None = None
    seen: bool = False

    @property
    def tokens(self) -> int:
        return int(self.rows.stop - self.rows.start)

    def restarts_at(self, sigma: float) -> bool:
        """Whether new noise was added since the last evaluation (ours). Solvers that evaluate
        within a step go back up too, but not above the two levels that they come from."""
        known = [s for s in (self.sigma, self.sigma_before) if s is not None]
        return bool(known) and sigma > max(known) * (1 + _LEVEL_ROUNDING)

    def nbytes(self) -> int:
        """Bytes of the per-token arrays and of the signal."""
        kept = (self.accumulator, self.stale, self.weights, self.signal)
        return sum(int(t.nbytes) for t in kept if t is not None)
