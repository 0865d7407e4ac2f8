"""What decides together: the chunks of a clip, for all conditioning branches or for one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..cache.correction import correction
from ..cache.forecast_clock import ForecastClock
from ..common.decision_kinds import DENSE, REUSE
from ..common.errors import CacheShapeError
from ..common.protocols import Distance, DistanceMeasure, TokenOps
from ..common.token_layout import TokenLayout
from ..report.trace import ChunkRecord, EvaluationRecord
from ..sampling.model_call import BranchKey
from ..sampling.schedule import ACTIVE, CLEAN, UNSTARTED, Iteration
from ..settings import MotionCacheSettings
from .chunk_decision import Decision, Proposal, decide, propose
from .chunk_state import ChunkState
from .evaluation_plan import EvaluationPlan, evaluation_plan
from .motion_weights import change_weights, merge_maps, motion_weights


@dataclass(slots=True)
class ClipDecision:
    """Decision state of one clip.

    Attributes:
        given: leading latent frames that are conditions, not sampled.
        computed: evaluations in which something was computed.
        clock: when each token's residual was last computed or corrected.
        kv_clock: when each token was last computed; the same one where nothing is corrected.
        sigmas, levels: noise level of every frame in the evaluation that was decided last, on the
            host and, `(F,)` fp32, on the device.
        served: branches that have carried out the current plan.
        maps: inter-frame differences `(samples, F, S)` the branches left in this evaluation.
    """

    label: str
    layout: TokenLayout
    chunks: list[ChunkState]
    given: int = 0
    computed: int = 0
    clock: ForecastClock | None = None
    kv_clock: ForecastClock | None = None
    sigmas: tuple[float, ...] = ()
    levels: Tensor | None = None
    plan: EvaluationPlan | None = None
    record: EvaluationRecord | None = None
    served: set[BranchKey] = field(default_factory=set)
    maps: dict[BranchKey, Tensor] = field(default_factory=dict)

    @classmethod
    def start(cls, label: str, layout: TokenLayout, device: torch.device) -> ClipDecision:
        """Fresh state for a clip."""
        ranges = zip(layout.chunk_rows(), layout.chunks, strict=True)
        return cls(label, layout, [ChunkState(rows, n, device) for rows, n in ranges])

    def is_current(self, sigmas: tuple[float, ...], key: BranchKey) -> bool:
        """Whether a call of this branch belongs to the evaluation that was decided last."""
        return self.may_be_current(key) and sigmas == self.sigmas

    def may_be_current(self, key: BranchKey) -> bool:
        """`is_current`, as far as it can be told without the noise level."""
        return self.plan is not None and key not in self.served

    def slide(self, rows: int, layout: TokenLayout, sigma: float) -> None:
        """The clip's first rows leave, whole chunks of them, and new chunks join its end.

        Args:
            rows: token rows that leave.
            layout: the clip from now on.
            sigma: noise level of the new chunks.
        """
        device = self.chunks[0].device
        kept = [c for c in self.chunks if c.rows.start >= rows]
        fresh = ClipDecision.start(self.label, layout, device).chunks
        for chunk, place in zip(kept, fresh, strict=False):
            chunk.rows = place.rows
        self.chunks, self.layout = kept + fresh[len(kept) :], layout
        self.plan, self.maps, self.served = None, {}, set()
        for clock in self._clocks():
            clock.slide(rows, layout.tokens, sigma)

    def sampled(self) -> list[slice]:
        """The frames of every chunk that say its noise level: those that are sampled."""
        spans = self.layout.chunk_frames()
        return [slice(max(s.start, min(self.given, s.stop - 1)), s.stop) for s in spans]

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
        if settings.policy not in ("motion", "random"):
            return False
        return any(
            c.updates >= settings.uniform_updates and c.evaluations >= settings.warmup_steps
            for c in self.chunks
        )


def measure(
    scope: ClipDecision,
    distance: DistanceMeasure,
    tokens: Tensor,
    modulation: Tensor,
    levels: Tensor,
    iteration: Iteration | None = None,
) -> list[Distance | None]:
    """Distance of every chunk since its last evaluation; remembers this one.

    Chunks that are not being denoised in a diffusion-forcing iteration are not measured.

    Args:
        tokens: `(b, L, C)` rows before the first block.
        modulation: `(T, 6, C)`, T of 1 or the clip's frames.
        levels: noise level of every frame, `(F,)` on the device.
    """
    out: list[Distance | None] = []
    roles = _roles(scope, iteration)
    spans = zip(scope.layout.chunk_frames(), scope.sampled(), strict=True)
    for chunk, (frames, sampled), role in zip(scope.chunks, spans, roles, strict=True):
        if role != ACTIVE:
            out.append(None)
            continue
        e = modulation if modulation.shape[0] == 1 else modulation[frames]
        before = chunk.signal
        signal = distance.signal(tokens[:, chunk.rows], e, levels[sampled].amax())
        # another number of samples cannot be compared
        comparable = before is not None and before.shape == signal.shape
        out.append(distance.between(before, signal) if before is not None and comparable else None)
        chunk.signal = signal
    return out


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the run and the call tell a decision.

    Attributes:
        last_sigma: noise level of the last step, where known.
        end_sigma: noise level at and below which everything is computed.
        allow_partial: whether single tokens may be computed.
        reuse: False computes every chunk that is being denoised.
        iteration: the diffusion-forcing iteration, if it is one.
        causal: whether chunks attend only to themselves and to those before them.
    """

    last_sigma: float | None = None
    end_sigma: float | None = None
    allow_partial: bool = True
    reuse: bool = True
    iteration: Iteration | None = None
    causal: bool = False


def prepare(
    scope: ClipDecision,
    settings: MotionCacheSettings,
    distances: Sequence[Distance | None],
    levels: Tensor,
    ops: TokenOps,
    given: Circumstances,
) -> list[Proposal]:
    """The device's part of the decisions for every chunk."""
    if scope.maps:
        difference = merge_maps(list(scope.maps.values()))
        for chunk, frames in zip(scope.chunks, scope.layout.chunk_frames(), strict=True):
            weigh = change_weights if settings.motion_source == "residual" else motion_weights
            weights = weigh(difference[frames], settings.motion_sensitivity)
            chunk.weights = weights.reshape(-1).contiguous()
    scope.maps, scope.served, scope.levels = {}, set(), levels
    roles = _roles(scope, given.iteration)
    return [
        propose(settings, chunk, d, ops, allow_partial=given.allow_partial)
        if role == ACTIVE and given.reuse
        else Proposal()
        for chunk, d, role in zip(scope.chunks, distances, roles, strict=True)
    ]


def advance(
    scope: ClipDecision,
    settings: MotionCacheSettings,
    proposals: Sequence[Proposal],
    numbers: Iterator[float],
    sigmas: tuple[float, ...],
    ops: TokenOps,
    given: Circumstances,
) -> list[Decision]:
    """Decide for every chunk and make the plan of this evaluation.

    Args:
        numbers: what the proposals left to read, chunk after chunk.
    """
    decisions = []
    levels = [max(sigmas[frames]) for frames in scope.sampled()]
    roles = _roles(scope, given.iteration)
    at_work = zip(scope.chunks, levels, roles, strict=True)
    if any(chunk.restarts_at(sigma) for chunk, sigma, role in at_work if role == ACTIVE):
        # what changed since was noise, which is no slope
        scope.clock = scope.kv_clock = None
    for chunk, sigma, proposal, role in zip(scope.chunks, levels, proposals, roles, strict=True):
        if role == ACTIVE and given.reuse:
            known = [next(numbers) for _ in proposal.unread()]
            decisions.append(_decide(settings, chunk, sigma, proposal, known, given))
        elif role in (ACTIVE, CLEAN):
            phase = "clean" if role == CLEAN else "without reuse"
            decisions.append(Decision(DENSE, phase, chunk.tokens))
        elif role == UNSTARTED and not given.causal and not chunk.seen:
            # the others attend to its keys and values
            decisions.append(Decision(DENSE, role, chunk.tokens))
        else:
            decisions.append(Decision(REUSE, role, 0))
        chunk.seen = True
    scope.sigmas = sigmas
    scope.plan = evaluation_plan(scope.layout, decisions, ops, scope.chunks[0].device)
    scope.computed += scope.plan.kind != REUSE
    if settings.keeps_slope or settings.kv_forecast > 0 or settings.correction > 0:
        _forecast(scope, scope.plan, settings, ops)
    return decisions


def _roles(scope: ClipDecision, iteration: Iteration | None) -> list[str]:
    if iteration is None:
        return [ACTIVE] * len(scope.chunks)
    return [step.role for step in iteration.steps]


def _decide(
    settings: MotionCacheSettings,
    chunk: ChunkState,
    sigma: float,
    proposal: Proposal,
    numbers: Sequence[float],
    given: Circumstances,
) -> Decision:
    forced = None
    if settings.dense_last and given.last_sigma is not None and sigma <= given.last_sigma:
        forced = "last"
    elif given.end_sigma is not None and sigma <= given.end_sigma:
        forced = "end"
    elif chunk.restarts_at(sigma):
        forced = "restart"
    repeated = sigma == chunk.sigma
    if not repeated:
        chunk.sigma, chunk.sigma_before = sigma, chunk.sigma
    return decide(settings, chunk, proposal, numbers, forced=forced, repeated=repeated)


def _forecast(
    scope: ClipDecision, plan: EvaluationPlan, settings: MotionCacheSettings, ops: TokenOps
) -> None:
    sigma = scope.token_levels()
    if scope.clock is None or scope.kv_clock is None:
        scope.clock = scope.kv_clock = ForecastClock.start(sigma)
        if settings.correction > 0:
            scope.kv_clock = ForecastClock.start(sigma)
    clock, kv_clock = scope.clock, scope.kv_clock
    if settings.keeps_slope:
        plan.gain = clock.gain(sigma, settings.forecast)
    plan.inverse_interval = clock.inverse_interval(sigma)
    if settings.kv_forecast > 0:
        plan.kv_gain = kv_clock.gain(sigma, settings.kv_forecast)
        plan.kv_inverse_interval = kv_clock.inverse_interval(sigma)
    if plan.kind == REUSE:
        return
    active = None if plan.inverse is None else plan.inverse[0] >= 0
    known = active
    if settings.correction > 0 and plan.inverse is not None:
        fresh = clock.computed == kv_clock.computed
        plan.correction = correction(
            scope.layout,
            plan.chunks,
            plan.inverse,
            plan.inverse_interval,
            fresh,
            settings.correction,
            ops,
        )
        if plan.correction is not None:
            known = plan.correction.inverse[0] >= 0
    clock.advance(sigma, known)
    if kv_clock is not clock:
        kv_clock.advance(sigma, active)


def records(scope: ClipDecision, decisions: Sequence[Decision]) -> tuple[ChunkRecord, ...]:
    """The decisions as numbers for the trace."""
    return tuple(
        ChunkRecord(d.kind, d.phase, d.active, chunk.tokens, d.distance)
        for chunk, d in zip(scope.chunks, decisions, strict=True)
    )
