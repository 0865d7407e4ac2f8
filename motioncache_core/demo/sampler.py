"""Euler sampling of the demo model, with or without MotionCache. ComfyUI is not needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from ..common.protocols import TokenOps
from ..engine.answers.answer_session import AnswerSession
from ..engine.answers.start import answer_session
from ..engine.session import Session
from ..report.trace import Trace
from ..sampling.model_call import ModelCall
from ..sampling.run_facts import RunFacts
from ..sampling.sampler_response import euler
from ..settings import MotionCacheSettings
from .answers import VelocityAnswers
from .wan import DemoWan

Progress = Callable[[int, int], None]


class Evaluator(Protocol):
    """What carries out the model calls of a run; a `Session` is one."""

    def evaluate(self, call: ModelCall) -> Tensor: ...


@dataclass(frozen=True)
class SampleOptions:
    """How to sample.

    Attributes:
        steps: Euler steps.
        cfg: classifier-free guidance scale; 1 skips the unconditional branch.
        shift: timestep shift of the flow schedule.
        denoise: share of the schedule to run; below 1 a start latent shines through the noise.
        split: call the two branches one after the other instead of as one batch.
    """

    steps: int = 30
    cfg: float = 2.0
    shift: float = 5.0
    denoise: float = 1.0
    split: bool = False

    def sigmas(self) -> list[float]:
        """The noise schedule."""
        return flow_sigmas(self.steps, self.shift, self.denoise)


def flow_sigmas(steps: int, shift: float, denoise: float = 1.0) -> list[float]:
    """`steps + 1` noise levels down to 0: `shift * u / (1 + (shift - 1) * u)`, u from denoise."""
    us = [denoise * (1 - i / steps) for i in range(steps + 1)]
    return [shift * u / (1 + (shift - 1) * u) for u in us]


@torch.no_grad()
def sample(
    model: DemoWan,
    positive: Tensor,
    negative: Tensor,
    noise: Tensor,
    options: SampleOptions,
    session: Evaluator | None = None,
    progress: Progress | None = None,
    start: Tensor | None = None,
    conditions: Tensor | None = None,
) -> Tensor:
    """Denoise `noise` `(B, 16, F, H, W)`; text states `(B, M, 4096)`. Returns latents.

    Args:
        start: latents of noise's shape; they show where `options.denoise` is below 1.
        conditions: what a model that takes them is shown besides noise, `(B, 20, F, H, W)`
            (`conditions.py`).
    """
    sigmas = options.sigmas()
    x = sigmas[0] * noise if start is None else sigmas[0] * noise + (1 - sigmas[0]) * start
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        branches = [("cond", positive)]
        if options.cfg != 1:
            branches.insert(0, ("uncond", negative))
        groups = [[b] for b in branches] if options.split else [branches]
        out: dict[str, Tensor] = {}
        for group in groups:
            names = tuple(name for name, _ in group)
            shown = x if conditions is None else torch.cat((x, conditions), dim=1)
            v = _call(model, shown, sigma, names, torch.cat([t for _, t in group]), session)
            out.update(zip(names, v.chunk(len(group)), strict=True))
        velocity = out["cond"]
        if "uncond" in out:
            velocity = out["uncond"] + options.cfg * (velocity - out["uncond"])
        x = x + (following - sigma) * velocity
        if progress is not None:
            progress(i + 1, options.steps)
    return x


def _call(
    model: DemoWan,
    x: Tensor,
    sigma: float,
    names: tuple[str, ...],
    context: Tensor,
    session: Evaluator | None,
) -> Tensor:
    x = torch.cat([x] * len(names))
    t = torch.full((x.shape[0],), 1000 * sigma, device=x.device)

    def run(options: dict[str, Any]) -> Tensor:
        velocity: Tensor = model(x, t, context, transformer_options=options)
        return velocity

    if session is None:
        return run({})
    return session.evaluate(ModelCall(model, run, x, t, names, {}))


def cached_sample(
    model: DemoWan,
    positive: Tensor,
    negative: Tensor,
    noise: Tensor,
    options: SampleOptions,
    settings: MotionCacheSettings,
    ops: TokenOps,
    facts: RunFacts | None = None,
    progress: Progress | None = None,
    start: Tensor | None = None,
    conditions: Tensor | None = None,
) -> tuple[Tensor, Trace]:
    """`sample` inside a session of its own; returns the latents and the run's trace."""
    trace = Trace(settings.as_dict())
    facts = facts or RunFacts(sigmas=options.sigmas())
    session: Session | AnswerSession
    if settings.traits.answers:
        response = euler(tuple(options.sigmas()))
        session = answer_session(settings, ops, facts, trace, response)
        evaluator: Evaluator = VelocityAnswers(session)
    else:
        session = evaluator = Session(settings, ops, facts, trace)
    try:
        latents = sample(
            model, positive, negative, noise, options, evaluator, progress, start, conditions
        )
    finally:
        session.close()
    return latents, trace
