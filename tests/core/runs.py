"""Runs of a network inside a session, with distances and decisions that a test dictates."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from motioncache_pack import kernels as ops
from motioncache_pack.motioncache_core.common.protocols import TokenOps
from motioncache_pack.motioncache_core.engine.session import Session
from motioncache_pack.motioncache_core.policy import clip_decision as scope
from motioncache_pack.motioncache_core.policy.chunk_decision import Decision, decide, propose
from motioncache_pack.motioncache_core.policy.chunk_state import ChunkState
from motioncache_pack.motioncache_core.report.trace import Trace
from motioncache_pack.motioncache_core.sampling.model_call import ModelCall
from motioncache_pack.motioncache_core.sampling.run_facts import ContextWindow, RunFacts
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from torch import Tensor


@dataclass(frozen=True)
class Steady:
    """Every evaluation moves the answer by the same distance."""

    distance: float = 0.0
    name: str = "steady"

    def to(self, device):
        return self

    def signal(self, tokens, modulation, sigma):
        return sigma

    def between(self, previous, current):
        return self.distance


class Run:
    """One session around one network."""

    def __init__(
        self, network: object, settings: MotionCacheSettings | None = None, **facts: Any
    ) -> None:
        settings = settings or MotionCacheSettings(dense_last=False, max_stale_steps=0)
        facts.setdefault("profile", Steady())
        self.network = network
        self.trace = Trace(settings.as_dict())
        self.session = Session(settings, ops, RunFacts(**facts), self.trace)

    def call(
        self,
        x: Tensor,
        t: float | Tensor,
        context: Tensor | None = None,
        branches: tuple[str, ...] = ("cond",),
        options: Mapping[str, Any] | None = None,
        window: ContextWindow | None = None,
        **arguments: Any,
    ) -> Tensor:
        t = t if isinstance(t, Tensor) else torch.full((x.shape[0],), float(t))

        def run(given: dict[str, Any]) -> Tensor:
            return self.network(x, t, context, transformer_options=given, **arguments)

        return self.session.evaluate(
            ModelCall(self.network, run, x, t, branches, options or {}, arguments, window=window)
        )

    @property
    def kinds(self) -> list[str]:
        """What each call executed."""
        return [call.kind for e in self.trace.evaluations for call in e.calls]

    @property
    def decided(self) -> list[str]:
        """What each evaluation decided."""
        return [e.kind for e in self.trace.evaluations]


def decide_at_once(
    settings: MotionCacheSettings,
    state: ChunkState,
    distance: float | None,
    ops: TokenOps,
    allow_partial: bool = True,
    **facts: Any,
) -> Decision:
    """Both halves of a decision."""
    proposal = propose(settings, state, distance, ops, allow_partial=allow_partial)
    numbers = [float(n) for n in proposal.unread()]
    return decide(settings, state, proposal, numbers, **facts)


def dictate(monkeypatch, *decisions: Any) -> None:
    """Replace the policy: one entry a chunk and evaluation, "dense", "reuse" or active rows."""
    left = list(decisions)

    def dictated(settings, state, proposal, numbers, **_):
        state.evaluations += 1
        wanted = left.pop(0)
        if wanted == "dense":
            return Decision("dense", "motion", state.tokens)
        if wanted == "reuse":
            return Decision("reuse", "motion", 0)
        due = torch.zeros(state.tokens, dtype=torch.uint8)
        due[torch.as_tensor(wanted, dtype=torch.int64)] = 1
        return Decision("partial", "motion", int(due.sum()), due)

    monkeypatch.setattr(scope, "decide", dictated)


def living_tensors() -> dict[int, Tensor]:
    """All tensors that Python code still holds, by address."""
    gc.collect()
    return {id(o): o for o in gc.get_objects() if type(o) is Tensor}


def left_over(before: Mapping[int, Tensor]) -> list[tuple[int, ...]]:
    """Shapes of tensors that were not there before.

    Those of 8 bits do not count: a map or mask in a trace is a numpy view of one.
    """
    new = (t for key, t in living_tensors().items() if key not in before)
    return [tuple(t.shape) for t in new if not str(t.dtype).endswith("int8")]
