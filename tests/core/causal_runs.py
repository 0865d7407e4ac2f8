"""Diffusion-forcing runs of a small network, answered by the engine or by an oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from motioncache_pack.motioncache_core.demo.sampler import flow_sigmas
from motioncache_pack.motioncache_core.engine.session import Session
from motioncache_pack.motioncache_core.models.wan import WAN
from motioncache_pack.motioncache_core.report.trace import Trace
from motioncache_pack.motioncache_core.sampling.forcing import sample_forcing
from motioncache_pack.motioncache_core.sampling.forcing_call import ForcingCall
from motioncache_pack.motioncache_core.sampling.model_call import ModelCall
from motioncache_pack.motioncache_core.sampling.options import ForcingOptions
from motioncache_pack.motioncache_core.sampling.schedule import Iteration, forcing_schedule
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.runs import Run
from motioncache_pack.tests.core.small_wan import TEXT_DIM, TEXT_TOKENS, small_wan
from torch import Tensor

BOTH = ("uncond", "cond")
NETWORK = small_wan(1, 2)
OFF = MotionCacheSettings(reuse_threshold=0)

# latents, timesteps, text states, branches, forcing -> velocity
Answer = Callable[[Tensor, Tensor, Tensor, tuple[str, ...], ForcingCall], Tensor]
Grouping = Callable[[int], Sequence[tuple[str, ...]]]


def together(index: int) -> list[tuple[str, ...]]:
    """The host calls both branches as one batch."""
    return [BOTH]


def apart(index: int) -> list[tuple[str, ...]]:
    """The host calls one branch after the other."""
    return [("uncond",), ("cond",)]


@dataclass
class Film:
    """A clip to be sampled.

    Attributes:
        size: latent frames, rows and columns.
        grouping: the branches of each call of an iteration.
    """

    size: tuple[int, int, int] = (7, 4, 6)
    batch: int = 1
    steps: int = 4
    prefix: int = 0
    grouping: Grouping = together
    seed: int = 0
    options: ForcingOptions = field(default_factory=ForcingOptions)

    @property
    def tokens(self) -> int:
        """Tokens of a latent frame."""
        return -(-self.size[1] // 2) * -(-self.size[2] // 2)

    @property
    def schedule(self) -> list[Iteration]:
        return forcing_schedule(self.size[0], self.steps, self.options, self.prefix)

    @property
    def sigmas(self) -> list[float]:
        return flow_sigmas(self.steps, 5.0)

    def sample(self, answer: Answer) -> Tensor:
        rng = torch.Generator().manual_seed(self.seed)
        noise, start = (torch.randn(self.batch, 16, *self.size, generator=rng) for _ in range(2))
        texts = {
            name: torch.randn(self.batch, TEXT_TOKENS, TEXT_DIM, generator=rng) for name in BOTH
        }

        def evaluate(x, call):
            velocity = {}
            for group in self.grouping(call.iteration.index):
                t = torch.tensor(call.sigmas).mul(1000).expand(len(x) * len(group), -1)
                context = torch.cat([texts[name] for name in group])
                out = answer(torch.cat([x] * len(group)), t, context, group, call)
                velocity.update(zip(group, out.chunk(len(group)), strict=True))
            guided = velocity["cond"]
            if "uncond" in velocity:
                guided = velocity["uncond"] + 2 * (guided - velocity["uncond"])
            return x - torch.tensor(call.active_sigmas)[:, None, None] * guided

        return sample_forcing(
            evaluate, noise, start, self.sigmas, self.options, self.prefix, seed=self.seed + 1
        )


class ForcingRun(Run):
    """One session around one network, for calls of a diffusion-forcing sampler.

    Attributes:
        host: transformer options that the host gives.
    """

    host: Mapping[str, Any] = MappingProxyType({})

    def answer(
        self, x: Tensor, t: Tensor, context: Tensor, names: tuple[str, ...], forcing: ForcingCall
    ) -> Tensor:
        def run(options: dict[str, Any]) -> Tensor:
            return self.network(x, t, context, transformer_options=options)

        options = WAN.shifted(self.host, forcing.first_position)
        call = ModelCall(self.network, run, x, t, names, options, forcing=forcing)
        return self.session.evaluate(call)


def sampled(
    film: Film,
    settings: MotionCacheSettings = OFF,
    *,
    network: Any = None,
    host: Mapping[str, Any] | None = None,
    look: Callable[[Session], Any] = id,
    **facts: Any,
) -> tuple[Tensor, Trace]:
    """Latents and trace of a run in a session of its own, which `look` is shown at the end."""
    facts.setdefault("sigmas", film.sigmas)
    run = ForcingRun(network or NETWORK, settings, **facts)
    run.host = host or {}
    try:
        latents = film.sample(run.answer)
    finally:
        look(run.session)
        run.session.close()
    return latents, run.trace


@dataclass
class Count:
    """Work that reached the network's own blocks, one entry for each call of the network.

    Attributes:
        rows: token rows in each block.
        pairs: query-key pairs of the first block's self-attention.
    """

    rows: list[list[int]] = field(default_factory=list)
    pairs: list[int] = field(default_factory=list)

    def attention(self, func: Any, q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
        """An attention override that counts."""
        if kwargs["transformer_options"]["block_index"] == 0 and k.shape[1] != TEXT_TOKENS:
            self.pairs[-1] += q.shape[1] * k.shape[1]
        return func(q, k, v, **kwargs)


def counted(
    film: Film, settings: MotionCacheSettings = OFF, **facts: Any
) -> tuple[Count, Trace, Tensor]:
    """The work of a run, seen from outside of the engine, its trace and its latents."""
    count, network = Count(), NETWORK

    def call(*_: Any) -> None:
        count.rows.append([])
        count.pairs.append(0)

    hooks = [network.register_forward_pre_hook(call)] + [
        block.register_forward_pre_hook(lambda _, args: count.rows[-1].append(args[0].shape[1]))
        for block in network.blocks
    ]
    try:
        host = {"optimized_attention_override": count.attention}
        latents, trace = sampled(film, settings, host=host, **facts)
    finally:
        for hook in hooks:
            hook.remove()
    return count, trace, latents


def poison(monkeypatch: Any) -> None:
    """New memory holds NaN until it is written to."""
    for owner, name in ((Tensor, "new_empty"), (torch, "empty_like"), (torch, "empty")):
        make = getattr(owner, name)

        def poisoned(*args: Any, _make: Any = make, **kwargs: Any) -> Tensor:
            new = _make(*args, **kwargs)
            return new.fill_(float("nan")) if new.is_floating_point() else new

        monkeypatch.setattr(owner, name, poisoned)
