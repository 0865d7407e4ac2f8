"""What decides together: the chunks of a clip, for all conditioning branches or for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .distance import Distance, DistanceMeasure
from .layout import TokenLayout
from .motion import merge_maps, motion_weights
from .ops import TokenOps
from .policy import DENSE, PARTIAL, REUSE, Decision, decide
from .settings import MotionCacheSettings
from .state import BranchKey, ChunkState, ForecastClock
from .trace import ChunkRecord, EvaluationRecord


@dataclass(slots=True)
class ScopePlan:
    """The decision of one evaluation.

    Attributes:
        rows: active rows `(n,)` int32 ascending; None unless partial.
        inverse: slot of each row or -1, `(1, L)` int32; None unless partial.
        gain, inverse_interval: forecast factors `(L,)` fp32, None without a forecast.
    """

    kind: str
    active: int
    rows: Tensor | None = None
    inverse: Tensor | None = None
    gain: Tensor | None = None
    inverse_interval: Tensor | None = None


@dataclass(slots=True)
class Scope:
    """Decision state of one clip.

    Attributes:
        served: branches that have carried out the current plan.
        maps: inter-frame differences `(samples, F, S)` the branches left in this evaluation.
    """

    label: str
    layout: TokenLayout
    chunks: list[ChunkState]
    clock: ForecastClock | None = None
    sigmas: tuple[float, ...] = ()
    plan: ScopePlan | None = None
    record: EvaluationRecord | None = None
    served: set[BranchKey] = field(default_factory=set)
    maps: dict[BranchKey, Tensor] = field(default_factory=dict)

    @classmethod
    def start(cls, label: str, layout: TokenLayout, device: torch.device) -> Scope:
        """Fresh state for a clip."""
        ranges = zip(layout.chunk_rows(), layout.chunks, strict=True)
        return cls(label, layout, [ChunkState(rows, n, device) for rows, n in ranges])

    def is_current(self, sigmas: tuple[float, ...], key: BranchKey) -> bool:
        """Whether a call of this branch belongs to the evaluation that was decided last."""
        return self.plan is not None and sigmas == self.sigmas and key not in self.served

    def levels(self) -> Tensor:
        """Noise level of every token in the current evaluation, `(L,)` fp32."""
        levels = torch.tensor(self.sigmas, device=self.chunks[0].device)
        return levels.repeat_interleave(self.layout.spatial)

    def nbytes(self) -> int:
        """Bytes of everything kept for deciding."""
        clock = () if self.clock is None else (self.clock.computed, self.clock.interval)
        tensors = (*self.maps.values(), *clock)
        return sum(int(t.nbytes) for t in tensors) + sum(c.nbytes() for c in self.chunks)

    def computed_in_full(self) -> None:
        """The evaluation computed every token, whatever had been decided."""
        if self.clock is not None:
            self.clock.advance(self.levels(), None)

    def wants_maps(self, settings: MotionCacheSettings) -> bool:
        """Whether the next evaluation will weigh tokens by motion."""
        if settings.policy not in ("motion", "random"):
            return False
        return any(
            c.updates >= settings.uniform_updates and c.evaluations >= settings.warmup_steps
            for c in self.chunks
        )


def measure(
    scope: Scope,
    distance: DistanceMeasure,
    tokens: Tensor,
    modulation: Tensor,
    sigmas: Sequence[float],
) -> list[Distance | None]:
    """Distance of every chunk since its last evaluation; remembers this one.

    Args:
        tokens: `(b, L, C)` rows before the first block.
        modulation: `(T, 6, C)`, T of 1 or the clip's frames.
        sigmas: noise level of every frame.
    """
    out: list[Distance | None] = []
    for chunk, frames in zip(scope.chunks, scope.layout.chunk_frames(), strict=True):
        sigma = max(sigmas[frames])
        e = modulation if modulation.shape[0] == 1 else modulation[frames]
        signal = distance.signal(tokens[:, chunk.rows], e, sigma)
        out.append(None if chunk.signal is None else distance.between(chunk.signal, signal))
        chunk.signal = signal
    return out


def advance(
    scope: Scope,
    settings: MotionCacheSettings,
    distances: Sequence[Distance | None],
    sigmas: tuple[float, ...],
    ops: TokenOps,
    *,
    last_sigma: float | None,
    end_sigma: float | None,
    allow_partial: bool,
) -> list[Decision]:
    """Decide for every chunk and make the plan of this evaluation."""
    if scope.maps:
        difference = merge_maps(list(scope.maps.values()))
        for chunk, frames in zip(scope.chunks, scope.layout.chunk_frames(), strict=True):
            weights = motion_weights(difference[frames], settings.motion_sensitivity)
            chunk.weights = weights.reshape(-1).contiguous()
    scope.maps, scope.served = {}, set()
    decisions = []
    for chunk, frames, d in zip(scope.chunks, scope.layout.chunk_frames(), distances, strict=True):
        sigma = max(sigmas[frames])
        forced = None
        if settings.dense_last and last_sigma is not None and sigma <= last_sigma:
            forced = "last"
        elif end_sigma is not None and sigma <= end_sigma:
            forced = "end"
        repeated = sigma == chunk.sigma
        chunk.sigma = sigma
        decisions.append(
            decide(
                settings, chunk, d, ops,
                forced=forced, repeated=repeated, allow_partial=allow_partial,
            )
        )  # fmt: skip
    scope.sigmas = sigmas
    scope.plan = _plan(scope, decisions, ops)
    if settings.forecast > 0:
        _forecast(scope, scope.plan, settings.forecast)
    return decisions


def _plan(scope: Scope, decisions: Sequence[Decision], ops: TokenOps) -> ScopePlan:
    kinds = {d.kind for d in decisions}
    active = sum(d.active for d in decisions)
    if kinds == {DENSE} or kinds == {REUSE}:
        return ScopePlan(kinds.pop(), active)
    mask = torch.zeros(scope.layout.tokens, dtype=torch.uint8, device=scope.chunks[0].device)
    for chunk, decision in zip(scope.chunks, decisions, strict=True):
        if decision.kind == DENSE:
            mask[chunk.rows] = 1
        elif decision.due is not None:
            mask[chunk.rows] = decision.due
    rows, inverse, _ = ops.compact_rows(mask)
    return ScopePlan(PARTIAL, active, rows[:active], inverse[None])


def _forecast(scope: Scope, plan: ScopePlan, forecast: float) -> None:
    sigma = scope.levels()
    if scope.clock is None:
        scope.clock = ForecastClock.start(sigma)
    plan.gain = scope.clock.gain(sigma, forecast)
    plan.inverse_interval = scope.clock.inverse_interval(sigma)
    if plan.kind != REUSE:
        scope.clock.advance(sigma, None if plan.inverse is None else plan.inverse[0] >= 0)


def records(scope: Scope, decisions: Sequence[Decision]) -> tuple[ChunkRecord, ...]:
    """The decisions as numbers for the trace."""
    return tuple(
        ChunkRecord(d.kind, d.phase, d.active, chunk.tokens, d.distance)
        for chunk, d in zip(scope.chunks, decisions, strict=True)
    )


@dataclass(slots=True)
class Part:
    """Batch rows of a call that follow one plan."""

    rows: slice
    plan: ScopePlan


@dataclass(slots=True)
class CallPlan:
    """What one call does.

    Attributes:
        kind: "dense", "partial" or "reuse".
        parts: batch rows with their own decision each.
        rows: active rows `(1 or B, n)` int32, padded with -1; None unless partial.
        computed: n, the rows that run through the blocks; all or none for the other kinds.
        note: why this is more than what was decided, where it is.
    """

    kind: str
    parts: Sequence[Part]
    rows: Tensor | None
    computed: int
    note: str = ""


def active_rows(parts: Sequence[Part], tokens: int, device: torch.device) -> Tensor:
    """Row lists of all parts as one matrix `(1 or B, n)` int32, padded with -1."""
    lists = []
    for part in parts:
        if part.plan.rows is not None:
            lists.append(part.plan.rows)
        else:
            size = tokens if part.plan.kind == DENSE else 0
            lists.append(torch.arange(size, dtype=torch.int32, device=device))
    if len(lists) == 1:
        return lists[0][None]
    out = torch.full(
        (parts[-1].rows.stop, max(len(r) for r in lists)), -1, dtype=torch.int32, device=device
    )
    for part, rows in zip(parts, lists, strict=True):
        out[part.rows, : len(rows)] = rows
    return out


def inverse_rows(part: Part, tokens: int, device: torch.device) -> Tensor:
    """Slot of each row in the part's list, or -1, `(1, L)` int32."""
    if part.plan.inverse is not None:
        return part.plan.inverse
    if part.plan.kind == DENSE:
        return torch.arange(tokens, dtype=torch.int32, device=device)[None]
    return torch.full((1, tokens), -1, dtype=torch.int32, device=device)
