"""The decision: compute a chunk in full, in part, or reuse it.

The state machine of MotionCache (arXiv 2605.01725): warm-up, uniform phase, motion phase. It
works on plain numbers and small per-token arrays; it knows no model and no hook.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .distance import Distance
from .ops import TokenOps
from .settings import MotionCacheSettings
from .state import ChunkState

DENSE, PARTIAL, REUSE = "dense", "partial", "reuse"


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to one chunk in one evaluation.

    Attributes:
        kind: "dense", "partial" or "reuse".
        phase: "warm-up", "uniform", "motion", "last" or "end".
        active: rows to compute.
        due: `(N,)` uint8 mask of the rows to compute, for "partial" only.
        distance: distance since the last evaluation, where one was taken.
    """

    kind: str
    phase: str
    active: int
    due: Tensor | None = None
    distance: float | None = None


def decide(
    settings: MotionCacheSettings,
    state: ChunkState,
    distance: Distance | None,
    ops: TokenOps,
    *,
    forced: str | None = None,
    repeated: bool = False,
    allow_partial: bool = True,
) -> Decision:
    """Advance the chunk's state by one evaluation and say what to do.

    Args:
        distance: how far the answer moved since the chunk's last evaluation; None on the first.
        repeated: the noise level is that of the evaluation before (second-order samplers).
        forced: a phase name ("last", "end") that makes this evaluation dense.
        allow_partial: False where no keys and values are kept: the uniform phase then never ends.
    """
    state.evaluations += 0 if repeated else 1
    if distance is None or state.evaluations <= settings.warmup_steps:
        return _dense(state, "warm-up", distance)
    if forced is not None:
        return _dense(state, forced, distance)
    per_token = settings.policy in ("motion", "random") and allow_partial
    if per_token and state.updates >= settings.uniform_updates:
        return _motion(settings, state, distance, ops)
    return _uniform(settings, state, float(distance))


def _dense(state: ChunkState, phase: str, distance: Distance | None) -> Decision:
    state.accumulated, state.waited = 0.0, 0
    if state.accumulator is not None and state.stale is not None:
        state.accumulator.zero_()
        state.stale.zero_()
    d = None if distance is None or isinstance(distance, Tensor) else distance
    return Decision(DENSE, phase, state.tokens, distance=d)


def _uniform(settings: MotionCacheSettings, state: ChunkState, distance: float) -> Decision:
    state.accumulated += distance
    overdue = 0 < settings.max_stale_steps <= state.waited
    if state.accumulated >= settings.reuse_threshold or overdue:
        state.updates += 1
        state.accumulated, state.waited = 0.0, 0
        return Decision(DENSE, "uniform", state.tokens, distance=distance)
    state.waited += 1
    return Decision(REUSE, "uniform", 0, distance=distance)


def _motion(
    settings: MotionCacheSettings, state: ChunkState, distance: Distance, ops: TokenOps
) -> Decision:
    device = state.device
    if state.accumulator is None or state.stale is None:
        state.accumulator = torch.zeros(state.tokens, device=device)
        state.stale = torch.zeros(state.tokens, dtype=torch.int32, device=device)
    d = torch.as_tensor(distance, dtype=torch.float32, device=device).reshape(1)
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
    # the one device-to-host read of the evaluation
    active, value = torch.cat((count.float(), d)).tolist()
    active = round(active)
    if active == 0:
        return Decision(REUSE, "motion", 0, distance=value)
    if active == state.tokens:
        return Decision(DENSE, "motion", active, distance=value)
    if settings.policy == "random":
        due = _shuffled(due, state)
    return Decision(PARTIAL, "motion", active, due, value)


def _shuffled(due: Tensor, state: ChunkState) -> Tensor:
    """The same number of rows at random positions, moved alike in all frames of the chunk."""
    rng = torch.Generator().manual_seed(state.evaluations)
    order = torch.randperm(state.tokens // state.frames, generator=rng).to(due.device)
    return due.view(state.frames, -1)[:, order].reshape(-1).contiguous()
