"""Diffusion-forcing sampling of the demo model. ComfyUI is not needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..common.host_transfer import upload
from ..common.protocols import TokenOps
from ..engine.session import Session
from ..models.wan import WAN
from ..report.trace import Trace
from ..sampling.forcing import Progress, sample_forcing
from ..sampling.forcing_call import ForcingCall
from ..sampling.model_call import ModelCall
from ..sampling.options import ForcingOptions
from ..sampling.run_facts import RunFacts
from ..settings import MotionCacheSettings
from .sampler import Evaluator
from .wan import DemoWan


@torch.no_grad()
def forcing_sample(
    model: DemoWan,
    positive: Tensor,
    negative: Tensor,
    noise: Tensor,
    sigmas: Sequence[float],
    options: ForcingOptions,
    session: Evaluator,
    *,
    cfg: float = 2.0,
    start: Tensor | None = None,
    conditions: Tensor | None = None,
    prefix: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Tensor:
    """Denoise `noise` `(B, 16, F, H, W)` chunk by chunk; text states `(B, M, 4096)`.

    Args:
        start: latents of the noise's shape: the first `prefix` frames are given, the others show
            where the schedule starts below 1.
        conditions: what a model that takes them is shown besides noise, `(B, 20, F, H, W)`
            (`conditions.py`).
        session: carries out the model calls, and the block-causal attention.
    """
    names = ("cond",) if cfg == 1 else ("uncond", "cond")
    context = positive if cfg == 1 else torch.cat((negative, positive))

    def evaluate(x: Tensor, forcing: ForcingCall) -> Tensor:
        shown = x
        if conditions is not None:
            window = slice(forcing.iteration.start, forcing.iteration.start + x.shape[2])
            shown = torch.cat((x, conditions[:, :, window]), dim=1)
        doubled = torch.cat([shown] * len(names))
        t = upload(forcing.sigmas, x.device).mul(1000).expand(len(doubled), -1)

        def run(options: dict[str, Any]) -> Tensor:
            out: Tensor = model(doubled, t, context, transformer_options=options)
            return out

        given = WAN.shifted({}, forcing.first_position)
        out = session.evaluate(ModelCall(model, run, doubled, t, names, given, forcing=forcing))
        velocity = out.chunk(len(names))[-1]
        if cfg != 1:
            unconditional = out.chunk(2)[0]
            velocity = unconditional + cfg * (velocity - unconditional)
        sigma = upload(forcing.active_sigmas, x.device)[:, None, None]
        return x - sigma * velocity

    latents = torch.zeros_like(noise) if start is None else start
    return sample_forcing(evaluate, noise, latents, sigmas, options, prefix, seed, progress)


def cached_forcing_sample(
    model: DemoWan,
    positive: Tensor,
    negative: Tensor,
    noise: Tensor,
    sigmas: Sequence[float],
    options: ForcingOptions,
    settings: MotionCacheSettings,
    ops: TokenOps,
    facts: RunFacts | None = None,
    **arguments: Any,
) -> tuple[Tensor, Trace]:
    """`forcing_sample` inside a session of its own; returns the latents and the run's trace."""
    trace = Trace(settings.as_dict())
    session = Session(settings, ops, facts or RunFacts(sigmas=list(sigmas)), trace)
    try:
        latents = forcing_sample(
            model, positive, negative, noise, sigmas, options, session, **arguments
        )
    finally:
        session.close()
    return latents, trace
