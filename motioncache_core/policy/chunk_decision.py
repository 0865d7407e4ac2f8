"""The decision: compute a chunk in full, in part, or reuse it.

The state machine of MotionCache (arXiv 2605.01725): warm-up, uniform phase, motion phase. It
works on plain numbers and small per-token arrays; it knows no model and no hook. A decision has
two halves, so that the numbers of all chunks cross to the host together: `propose` works on the
device, `decide` on what was read of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.decision_kinds import DENSE, PARTIAL, REUSE
from ..common.host_transfer import upload
from ..common.protocols import Distance, TokenOps
from ..settings import MotionCacheSettings
from .chunk_state import ChunkState


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to one chunk in one evaluation.

    Attributes:
        kind: "dense", "partial" or "reuse".
        phase: "warm-up", "uniform", "motion", "restart", "last" or "end".
        active: rows to compute.
        due: `(N,)` uint8 mask of the rows to compute, for "partial" only.
        distance: distance since the last evaluation, where one was taken.
    """

    kind: str
    phase: str
    active: int
    due: Tensor | None = None
    distance: float | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the device worked out for one chunk; nothing of it has been read yet.

    Attributes:
        distance: change since the chunk's last evaluation, 0-d or a number; None on the first.
        due: `(N,)` uint8 mask of the rows to compute, where the motion phase may have come.
        count: rows in it, `(1,)` int32; None where `update_share` says how many.
    """

    distance: Distance | None = None
    due: Tensor | None = None
    count: Tensor | None = None

    def unread(self) -> list[Tensor]:
        """What `decide` has to know on the host, in its order."""
        return [n for n in (self.distance, self.count) if isinstance(n, Tensor)]


def propose(
    settings: MotionCacheSettings,
    state: ChunkState,
    distance: Distance | None,
    ops: TokenOps,
    *,
    allow_partial: bool = True,
) -> Proposal:
    """The device's part of a decision. It is the last to touch the per-token arrays but for an
    evaluation that turns out dense, which clears them.

    Args:
        distance: how far the answer moved since the chunk's last evaluation; None on the first.
        allow_partial: False where no keys and values are kept: the uniform phase then never ends.
    """
    per_token = settings.traits.per_token and allow_partial
    warm = state.evaluations < settings.warmup_steps
    if distance is None or warm or not per_token or state.updates < settings.uniform_updates:
        return Proposal(distance)
    device = state.device
    if state.accumulator is None or state.stale is None:
        state.accumulator = torch.zeros(state.tokens, device=device)
        state.stale = torch.zeros(state.tokens, dtype=torch.int32, device=device)
    if isinstance(distance, Tensor):
        d = distance.to(torch.float32).reshape(1)
    else:
        d = torch.full((1,), distance, device=device)
    if settings.update_share > 0:
        state.accumulator += d if state.weights is None else d * state.weights
        state.stale += 1
        return Proposal(distance, _most_due(settings, state.accumulator, state.stale, ops))
    due, count = ops.accumulate_due(
        state.accumulator,
        state.stale,
        d,
        state.weights,
        frames=state.frames,
        threshold=settings.reuse_threshold,
        agreement=settings.agreement if settings.agreement > 0 else -1.0,
        min_update_ratio=settings.min_update_ratio,
        max_stale_steps=settings.max_stale_steps,
    )
    due, count = _filled(due, count, state.accumulator, state.stale, ops)
    return Proposal(distance, due, count)


def _most_due(
    settings: MotionCacheSettings, accumulator: Tensor, stale: Tensor, ops: TokenOps
) -> Tensor:
    """Mask `(N,)` uint8 of the share of the tokens that changed most since they were computed, or
    were reused too often."""
    score = accumulator
    if settings.max_stale_steps > 0:
        score = score.masked_fill(stale > settings.max_stale_steps, float("inf"))
    active = shared_rows(settings, accumulator.shape[0])
    return ops.select_top(score, torch.full((1,), active, dtype=torch.int32, device=score.device))


def shared_rows(settings: MotionCacheSettings, tokens: int) -> int:
    """Tokens of a partial evaluation where `update_share` says how many, a round number."""
    multiple = row_multiple(tokens)
    return min(tokens, multiple * max(1, round(settings.update_share * tokens / multiple)))


def row_multiple(tokens: int) -> int:
    """What counts of active rows are rounded up to: 128, or less where that were many (ours).

    Kernels and compiled blocks then meet few sizes, and matrix products no ragged edge.
    """
    return min(128, 1 << max((tokens // 32).bit_length() - 1, 0))


def _filled(
    due: Tensor, count: Tensor, accumulator: Tensor, stale: Tensor, ops: TokenOps
) -> tuple[Tensor, Tensor]:
    """More rows up to a round number, the next most due ones; none where none is due."""
    tokens = accumulator.shape[0]
    multiple = row_multiple(tokens)
    if multiple == 1:
        return due, count
    count = torch.div(count + (multiple - 1), multiple, rounding_mode="floor").mul_(multiple)
    count = count.clamp_(max=tokens)
    score = accumulator.masked_fill(due.view(torch.bool), float("inf"))
    due = ops.select_top(score, count)
    accumulator.masked_fill_(due.view(torch.bool), 0.0)
    stale.masked_fill_(due.view(torch.bool), 0)
    return due, count


def decide(
    settings: MotionCacheSettings,
    state: ChunkState,
    proposal: Proposal,
    numbers: Sequence[float],
    *,
    forced: str | None = None,
    repeated: bool = False,
) -> Decision:
    """Advance the chunk's state by one evaluation and say what to do.

    Args:
        numbers: `proposal.unread()` on the host.
        repeated: the noise level is that of the evaluation before (second-order samplers).
        forced: a phase name ("last", "end", "restart") that makes this evaluation dense.
    """
    given = iter(numbers)
    distance = next(given) if isinstance(proposal.distance, Tensor) else proposal.distance
    state.evaluations += 0 if repeated else 1
    if distance is None or state.evaluations <= settings.warmup_steps:
        return _dense(state, "warm-up", distance)
    if forced is not None:
        return _dense(state, forced, distance)
    if proposal.due is not None and settings.update_share > 0:
        return _in_shares(settings, state, proposal.due, distance)
    if proposal.due is not None:
        return _motion(settings, state, proposal.due, round(next(given)), distance)
    return _uniform(settings, state, distance)


def _reached(settings: MotionCacheSettings, state: ChunkState, threshold: float) -> bool:
    """A budget's steps add up to the threshold whatever was rounded."""
    return state.accumulated >= threshold * (1 - 1e-3 * (settings.compute_budget > 0))


def _carried(settings: MotionCacheSettings, state: ChunkState, reached: float) -> float:
    """What is accumulated after an update: with a budget what was too much, as updates fall on
    whole steps and their rate is to hold."""
    return max(0.0, state.accumulated - reached) if settings.compute_budget > 0 else 0.0


def _dense(state: ChunkState, phase: str, distance: float | None) -> Decision:
    state.accumulated, state.waited = 0.0, 0
    if state.accumulator is not None and state.stale is not None:
        state.accumulator.zero_()
        state.stale.zero_()
    return Decision(DENSE, phase, state.tokens, distance=distance)


def _uniform(settings: MotionCacheSettings, state: ChunkState, distance: float) -> Decision:
    state.accumulated += distance
    overdue = 0 < settings.max_stale_steps <= state.waited
    if _reached(settings, state, settings.reuse_threshold) or overdue:
        state.updates += 1
        left = _carried(settings, state, settings.reuse_threshold)
        state.accumulated, state.waited = left, 0
        return Decision(DENSE, "uniform", state.tokens, distance=distance)
    state.waited += 1
    return Decision(REUSE, "uniform", 0, distance=distance)


def _in_shares(
    settings: MotionCacheSettings, state: ChunkState, due: Tensor, distance: float
) -> Decision:
    """The most due tokens, as soon as whole evaluations would have computed as many (ours)."""
    active = shared_rows(settings, state.tokens)
    share = active / state.tokens
    state.accumulated += distance
    overdue = 0 < settings.max_stale_steps * share <= state.waited
    if not _reached(settings, state, settings.reuse_threshold * share) and not overdue:
        state.waited += 1
        return Decision(REUSE, "motion", 0, distance=distance)
    left = _carried(settings, state, settings.reuse_threshold * share)
    if active == state.tokens:
        decision = _dense(state, "motion", distance)
        state.accumulated = left
        return decision
    state.accumulated, state.waited = left, 0
    for counted in (state.accumulator, state.stale):
        if counted is not None:
            counted.masked_fill_(due.view(torch.bool), 0)
    if settings.traits.at_random:
        due = _shuffled(due, state, 1)
    return Decision(PARTIAL, "motion", active, due, distance)


def _motion(
    settings: MotionCacheSettings, state: ChunkState, due: Tensor, active: int, distance: float
) -> Decision:
    if active == 0:
        return Decision(REUSE, "motion", 0, distance=distance)
    if active == state.tokens:
        return Decision(DENSE, "motion", active, distance=distance)
    if settings.traits.at_random:
        due = _shuffled(due, state, state.frames)
    return Decision(PARTIAL, "motion", active, due, distance)


def _shuffled(due: Tensor, state: ChunkState, parts: int) -> Tensor:
    """The same number of rows at random positions, moved alike in all parts of the chunk."""
    rng = torch.Generator().manual_seed(state.evaluations)
    drawn = torch.randperm(state.tokens // parts, generator=rng)
    order = upload(drawn, due.device, torch.int64)
    return due.view(parts, -1)[:, order].reshape(-1).contiguous()
