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
from .run_context import RunContext


@dataclass(slots=True)
class ClipDecision:
    """Decision state of one clip.

    Attributes:
        iteration: the diffusion-forcing iteration that is decided, if it is one.
        causal: whether chunks attend only to themselves and to those before them.
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
    iteration: Iteration | None = None
    causal: bool = False
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


def measure(
    clip: ClipDecision,
    distance: DistanceMeasure,
    tokens: Tensor,
    modulation: Tensor | None,
    levels: Tensor,
) -> list[Distance | None]:
    """Distance of every chunk since its last evaluation; remembers this one.

    Chunks that are not being denoised in a diffusion-forcing iteration are not measured.

    Args:
        tokens: `(b, L, C)` rows before the first block.
        modulation: `(T, 6, C)`, T of 1 or the clip's frames; None where there is none.
        levels: noise level of every frame, `(F,)` on the device.
    """
    out: list[Distance | None] = []
    roles = clip.roles()
    spans = zip(clip.layout.chunk_frames(), clip.sampled(), strict=True)
    for chunk, (frames, sampled), role in zip(clip.chunks, spans, roles, strict=True):
        if role != ACTIVE:
            out.append(None)
            continue
        e = modulation
        if e is not None and e.shape[0] > 1:
            e = e[frames]
        before = chunk.signal
        signal = distance.signal(tokens[:, chunk.rows], e, levels[sampled].amax())
        # another number of samples cannot be compared
        comparable = before is not None and before.shape == signal.shape
        out.append(distance.between(before, signal) if before is not None and comparable else None)
        chunk.signal = signal
    return out


def prepare(
    clip: ClipDecision,
    context: RunContext,
    distances: Sequence[Distance | None],
    levels: Tensor,
    allow_partial: bool = True,
) -> list[Proposal]:
    """The device's part of the decisions for every chunk.

    Args:
        allow_partial: whether single tokens may be computed.
    """
    settings, ops = context.settings, context.ops
    if clip.maps:
        difference = merge_maps(list(clip.maps.values()))
        for chunk, frames in zip(clip.chunks, clip.layout.chunk_frames(), strict=True):
            weigh = change_weights if settings.motion_source == "residual" else motion_weights
            weights = weigh(difference[frames], settings.motion_sensitivity)
            chunk.weights = weights.reshape(-1).contiguous()
    clip.maps, clip.served, clip.levels = {}, set(), levels
    roles = clip.roles()
    return [
        propose(settings, chunk, d, ops, allow_partial=allow_partial)
        if role == ACTIVE and context.reuse
        else Proposal()
        for chunk, d, role in zip(clip.chunks, distances, roles, strict=True)
    ]


def advance(
    clip: ClipDecision,
    context: RunContext,
    proposals: Sequence[Proposal],
    numbers: Iterator[float],
    sigmas: tuple[float, ...],
) -> list[Decision]:
    """Decide for every chunk and make the plan of this evaluation.

    Args:
        numbers: what the proposals left to read, chunk after chunk.
    """
    settings, ops, decisions = context.settings, context.ops, list[Decision]()
    levels = [max(sigmas[frames]) for frames in clip.sampled()]
    roles = clip.roles()
    at_work = zip(clip.chunks, levels, roles, strict=True)
    if any(chunk.restarts_at(sigma) for chunk, sigma, role in at_work if role == ACTIVE):
        # what changed since was noise, which is no slope
        clip.clock = clip.kv_clock = None
    for chunk, sigma, proposal, role in zip(clip.chunks, levels, proposals, roles, strict=True):
        if role == ACTIVE and context.reuse:
            known = [next(numbers) for _ in proposal.unread()]
            decisions.append(_decide(context, chunk, sigma, proposal, known))
        elif role in (ACTIVE, CLEAN):
            phase = "clean" if role == CLEAN else "without reuse"
            decisions.append(Decision(DENSE, phase, chunk.tokens))
        elif role == UNSTARTED and not clip.causal and not chunk.seen:
            # the others attend to its keys and values
            decisions.append(Decision(DENSE, role, chunk.tokens))
        else:
            decisions.append(Decision(REUSE, role, 0))
        chunk.seen = True
    clip.sigmas = sigmas
    clip.plan = evaluation_plan(clip.layout, decisions, ops, clip.chunks[0].device)
    clip.computed += clip.plan.kind != REUSE
    if settings.keeps_slope or settings.kv_forecast > 0 or settings.correction > 0:
        _forecast(clip, clip.plan, settings, ops)
    return decisions


def _decide(
    context: RunContext,
    chunk: ChunkState,
    sigma: float,
    proposal: Proposal,
    numbers: Sequence[float],
) -> Decision:
    settings, run, forced = context.settings, context.run, None
    if settings.dense_last and run.last_sigma is not None and sigma <= run.last_sigma:
        forced = "last"
    elif run.end_sigma is not None and sigma <= run.end_sigma:
        forced = "end"
    elif chunk.restarts_at(sigma):
        forced = "restart"
    repeated = sigma == chunk.sigma
    if not repeated:
        chunk.sigma, chunk.sigma_before = sigma, chunk.sigma
    return decide(settings, chunk, proposal, numbers, forced=forced, repeated=repeated)


def _forecast(
    clip: ClipDecision, plan: EvaluationPlan, settings: MotionCacheSettings, ops: TokenOps
) -> None:
    sigma = clip.token_levels()
    if clip.clock is None or clip.kv_clock is None:
        clip.clock = clip.kv_clock = ForecastClock.start(sigma)
        if settings.correction > 0:
            clip.kv_clock = ForecastClock.start(sigma)
    clock, kv_clock = clip.clock, clip.kv_clock
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
            clip.layout,
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


def records(clip: ClipDecision, decisions: Sequence[Decision]) -> tuple[ChunkRecord, ...]:
    """The decisions as numbers for the trace."""
    return tuple(
        ChunkRecord(d.kind, d.phase, d.active, chunk.tokens, d.distance)
        for chunk, d in zip(clip.chunks, decisions, strict=True)
    )
