"""What decides together: the chunks of a clip, for all conditioning branches or for one."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..cache.forecast_clock import ForecastClock
from ..common.errors import CacheShapeError
from ..common.token_layout import TokenLayout
from ..report.trace import EvaluationRecord
from ..sampling.model_call import BranchKey
from ..sampling.schedule import ACTIVE, Iteration
from ..settings import MotionCacheSettings
from .chunk_state import ChunkState
from .evaluation_plan import EvaluationPlan


@dataclass(slots=True)
class ClipState:
    """Decision state of one clip.

    Attributes:
        iteration: the diffusion-forcing iteration that is decided, if it is one.
        causal: whether chunks attend only to themselves and to those before them.
        computed: evaluations in which something was computed.
        clock: when each token's residual was last computed or corrected.
        kv_clock: when each token was last computed; the same one where nothing is corrected.
        sigmas, levels: noise level of every frame in the evaluation that was decided last, on the
            host and, `(F,)` fp32, on the device.
        evaluation: number of the sampler's evaluation that was decided last; None where nobody
            says it.
        served: branches that have carried out the current plan.
        maps: inter-frame differences `(samples, F, S)` the branches left in this evaluation.
    """

    label: str
    layout: TokenLayout
    chunks: list[ChunkState]
    iteration: Iteration | None = None
    causal: bool = False
    computed: int = 0
    clock: ForecastClock | None = None
    kv_clock: ForecastClock | None = None
    sigmas: tuple[float, ...] = ()
    levels: Tensor | None = None
    plan: EvaluationPlan | None = None
    record: EvaluationRecord | None = None
    evaluation: int | None = None
    served: set[BranchKey] = field(default_factory=set)
    maps: dict[BranchKey, Tensor] = field(default_factory=dict)

    @classmethod
    def start(cls, label: str, layout: TokenLayout, device: torch.device) -> ClipState:
        """Fresh state for a clip."""
        ranges = zip(layout.chunk_rows(), layout.chunks, strict=True)
        return cls(label, layout, [ChunkState(rows, n, device) for rows, n in ranges])

    def is_current(
        self, sigmas: tuple[float, ...], key: BranchKey, evaluation: int | None = None
    ) -> bool:
        """Whether a call of this branch belongs to the evaluation that was decided last.

        Args:
            evaluation: number of the sampler's evaluation, where known.
        """
        return self.may_be_current(key, evaluation) and sigmas == self.sigmas

    def may_be_current(self, key: BranchKey, evaluation: int | None = None) -> bool:
        """`is_current`, as far as it can be told without the noise level."""
        if evaluation is None:
            return self.plan is not None and key not in self.served
        return self.plan is not None and evaluation == self.evaluation

    def slide(self, rows: int, layout: TokenLayout, sigma: float) -> None:
        """The clip's first rows leave, whole chunks of them, and new chunks join its end.

        Args:
            rows: token rows that leave.
            layout: the clip from now on.
            sigma: noise level of the new chunks.
        """
        device = self.chunks[0].device
        kept = [c for c in self.chunks if c.rows.start >= rows]
        fresh = ClipState.start(self.label, layout, device).chunks
        for chunk, place in zip(kept, fresh, strict=False):
            chunk.rows = place.rows
        self.chunks, self.layout = kept + fresh[len(kept) :], layout
        self.plan, self.maps, self.served = None, {}, set()
        for clock in self._clocks():
            clock.slide(rows, layout.tokens, sigma)

    @property
    def prefix_frames(self) -> int:
        """Leading latent frames that are conditions, not sampled."""
        return 0 if self.iteration is None else self.iteration.prefix

    def roles(self) -> list[str]:
        """What every chunk does in the iteration; all are denoised where there is none."""
        if self.iteration is None:
            return [ACTIVE] * len(self.chunks)
        return [step.role for step in self.iteration.steps]

    def sampled(self) -> list[slice]:
        """The frames of every chunk that say its noise level: those that are sampled."""
        spans = self.layout.chunk_frames()
        return [slice(max(s.start, min(self.prefix_frames, s.stop - 1)), s.stop) for s in spans]

    def token_levels(self) -> Tensor:
        """Noise level of every token in the current evaluation, `(L,)` fp32."""
        if self.levels is None:
            raise CacheShapeError("no evaluation has been decided yet")
        return self.levels.repeat_interleave(self.layout.spatial)

    def nbytes(self) -> int:
        """Bytes of everything kept for deciding."""
        times = [t for clock in self._clocks() for t in (clock.computed, clock.interval)]
        levels = () if self.levels is None else (self.levels,)
        tensors = (*self.maps.values(), *times, *levels)
        return sum(int(t.nbytes) for t in tensors) + sum(c.nbytes() for c in self.chunks)

    def computed_in_full(self) -> None:
        """The evaluation computed every token, whatever had been decided."""
        for clock in self._clocks():
            clock.advance(self.token_levels(), None)

    def _clocks(self) -> list[ForecastClock]:
        different = self.kv_clock is not self.clock
        return [c for c in (self.clock, self.kv_clock if different else None) if c is not None]

    def wants_maps(self, settings: MotionCacheSettings) -> bool:
        """Whether the next evaluation will weigh tokens by motion."""
        if not settings.traits.per_token:
            return False
        return any(
            c.updates >= settings.uniform_updates and c.evaluations >= settings.warmup_steps
            for c in self.chunks
        )
