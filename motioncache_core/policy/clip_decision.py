"""The decisions of a clip's chunks: measured, proposed on the device, taken on the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from ..cache.correction import correction
from ..cache.forecast_clock import ForecastClock
from ..common.decision_kinds import DENSE, REUSE
from ..common.protocols import Distance, DistanceMeasure, TokenOps
from ..report.trace import ChunkRecord
from ..sampling.schedule import ACTIVE, CLEAN, UNSTARTED
from ..settings import MotionCacheSettings
from .chunk_decision import Decision, Proposal, decide, propose
from .chunk_state import ChunkState
from .clip_state import ClipState
from .evaluation_plan import EvaluationPlan, evaluation_plan
from .motion_weights import change_weights, merge_maps, motion_weights
from .run_context import RunContext


def measure(
    clip: ClipState,
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
    clip: ClipState,
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
    clip: ClipState,
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
    clip: ClipState, plan: EvaluationPlan, settings: MotionCacheSettings, ops: TokenOps
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


def records(clip: ClipState, decisions: Sequence[Decision]) -> tuple[ChunkRecord, ...]:
    """The decisions as numbers for the trace."""
    return tuple(
        ChunkRecord(d.kind, d.phase, d.active, chunk.tokens, d.distance)
        for chunk, d in zip(clip.chunks, decisions, strict=True)
    )
