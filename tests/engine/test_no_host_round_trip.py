"""An evaluation reads from the device once at most, in one place, and never between the blocks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core import (
    ForcingCall,
    ForcingOptions,
    ModelCall,
    MotionCacheSettings,
    RunFacts,
    Session,
    Trace,
)
from motioncache_pack.motioncache_core.demo.sampler import flow_sigmas
from motioncache_pack.motioncache_core.models.wan import WAN
from motioncache_pack.motioncache_core.policy.distance import CalibratedProfile, TimestepPolynomial
from motioncache_pack.tests.core.causal_runs import Film, apart, together
from motioncache_pack.tests.core.small_wan import TEXT_DIM, TEXT_TOKENS, small_wan
from motioncache_pack.tests.support.assert_close import assert_close
from motioncache_pack.tests.support.sync_guard import (
    DeviceTensor,
    SyncGuard,
    module_on_device,
    on_device,
    on_host,
)
from torch import Tensor

STEPS, SIZE = 12, (4, 4, 6)
LEVELS = flow_sigmas(STEPS, 3.0)
# the one place that may read, and the one that may put numbers on the device
READBACK = "motioncache_core/common/host_transfer.py"

PROFILE = CalibratedProfile("test", (0.0, 0.5, 1.0), (0.0, 0.4, 0.9))
POLYNOMIAL = TimestepPolynomial("test", (2.0, 0.5, 0.0))
# distances differ along the schedule, so that a run has evaluations of all three kinds
MOTION = MotionCacheSettings(
    warmup_steps=2, uniform_updates=1, reuse_threshold=0.12, motion_sensitivity=0.9,
    agreement=0.0, min_update_ratio=0.02, max_stale_steps=6,
)  # fmt: skip


class OnHost:
    """One session around a network on the CPU, unwatched."""

    def __init__(self, settings: MotionCacheSettings, network: Any = None, **facts: Any) -> None:
        self.network = network or small_wan(1, 2)
        self.trace = Trace(settings.as_dict())
        self.session = Session(settings, kernels, RunFacts(**facts), self.trace)

    def answer(
        self, x: Tensor, t: Tensor, context: Tensor, names: tuple[str, ...],
        forcing: ForcingCall | None = None, options: dict[str, Any] | None = None,
    ) -> Tensor:  # fmt: skip
        def run(options: dict[str, Any]) -> Tensor:
            return self.network(x, t, context, transformer_options=options)

        options = options or {} if forcing is None else WAN.shifted({}, forcing.first_position)
        call = ModelCall(self.network, run, x, t, names, options, forcing=forcing)
        return self.session.evaluate(call)

    def close(self) -> None:
        self.session.close()


class Watched(OnHost):
    """The same session with the network on the device, whose every evaluation is looked at.

    Attributes:
        reads: how often each evaluation read from the device.
        allowed: how often it may.
    """

    def __init__(self, settings: MotionCacheSettings, **facts: Any) -> None:
        super().__init__(settings, module_on_device(small_wan(1, 2)), **facts)
        self.reads: list[int] = []
        self.allowed = 1
        self._guard = SyncGuard()
        self._inside = 0
        self.network.blocks[0].register_forward_pre_hook(self._enter)
        self.network.blocks[-1].register_forward_hook(self._leave)

    def answer(self, x: Tensor, t: Tensor, context: Tensor, *more: Any, **given: Any) -> Tensor:
        """The network's answer to tensors of the host, on the host."""
        x, t, context = on_device(x), on_device(t), on_device(context)
        guard = self._guard = SyncGuard(reads=self.allowed)
        with guard:
            out = super().answer(x, t, context, *more, **given)
        assert type(out) is DeviceTensor and guard.ops > 50
        for wait in guard.waits:
            assert wait.where[0][0] == READBACK and wait.where[0][2] == "read", str(wait)
        self.reads.append(guard.count)
        return on_host(out)

    def close(self) -> None:
        # the run is over: what it recorded may be read
        with SyncGuard(reads=None):
            self.session.close()

    def _enter(self, *_: Any) -> None:
        self._inside = self._guard.count

    def _leave(self, *_: Any) -> None:
        assert self._guard.count == self._inside, str(self._guard.waits[-1])


def both(settings: MotionCacheSettings, sample: Any, allowed: int = 1, **facts: Any) -> Watched:
    """`sample(answer)` on the device and on the CPU, which must agree."""
    found = {}
    for kind in (Watched, OnHost):
        run = kind(settings, **facts)
        run.allowed = allowed
        try:
            found[kind] = run, sample(run.answer)
        finally:
            run.close()
    (watched, latents), (host, expected) = found[Watched], found[OnHost]
    assert kinds(watched) == kinds(host)
    # attention sums in another order
    assert_close("latents", expected, latents, 1e-4)
    return watched


def in_turn(step: int) -> list[tuple[str, ...]]:
    """Each step calls one branch, the guidance takes the other's answer from the step before."""
    return [("cond",)] if step % 2 else [("uncond",)]


def kinds(run: OnHost) -> list[str]:
    """What each call of the network was."""
    return [call.kind for e in run.trace.evaluations for call in e.calls]


@dataclass
class Clip:
    """A clip that ordinary sampling denoises with guidance.

    Attributes:
        grouping: the branches of each call of a step.
        framewise: a timestep of its own for each frame.
        marked: the calls of a step share the host's tensor of noise levels, as ComfyUI's do.
    """

    grouping: Any = together
    framewise: bool = False
    marked: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    def sample(self, answer: Any) -> Tensor:
        rng = torch.Generator().manual_seed(8)
        x = torch.randn(1, 16, *SIZE, generator=rng)
        texts = {
            n: torch.randn(1, TEXT_TOKENS, TEXT_DIM, generator=rng) for n in ("cond", "uncond")
        }
        velocity = dict.fromkeys(texts, torch.zeros_like(x))
        for step in range(STEPS):
            options = {"sigmas": torch.tensor([LEVELS[step]])} if self.marked else {}
            for names in self.grouping(step):
                t = torch.full((len(names),), 1000 * LEVELS[step])
                if self.framewise:
                    t = t[:, None] - 0.01 * torch.arange(SIZE[0])
                context = torch.cat([texts[name] for name in names])
                out = answer(torch.cat([x] * len(names)), t, context, names, options=options)
                velocity.update(zip(names, out.chunk(len(names)), strict=True))
            guided = velocity["uncond"] + 3 * (velocity["cond"] - velocity["uncond"])
            x = x + (LEVELS[step + 1] - LEVELS[step]) * guided
        return x


CHUNKS = {"chunks": (1, 2, 1)}
ORDINARY = {
    "one batch": (MOTION, Clip()),
    "split branches": (MOTION, Clip(apart)),
    "masks of their own, split": (replace(MOTION, cfg_mask="separate"), Clip(apart)),
    "forecast of keys and values": (replace(MOTION, forecast=0.75, kv_forecast=1.0), Clip()),
    "shares by the residual's change": (
        replace(MOTION, motion_source="residual", kv_forecast=1.0, update_share=0.5),
        Clip(),
    ),
    "correction, masks of their own": (
        replace(MOTION, forecast=0.75, correction=1.0, cfg_mask="separate"),
        Clip(),
    ),
    "correction in chunks": (
        replace(MOTION, forecast=0.75, kv_forecast=1.0, correction=1.0, update_share=0.5),
        Clip(facts=CHUNKS),
    ),
    "features, profile": (
        replace(MOTION, motion_source="features"),
        Clip(facts={"profile": PROFILE}),
    ),
    "vote, verbose": (replace(MOTION, agreement=0.5, verbose=True), Clip()),
    "random, polynomial": (replace(MOTION, policy="random"), Clip(facts={"profile": POLYNOMIAL})),
    "a timestep per frame": (MOTION, Clip(framewise=True)),
    "chunks as a whole": (replace(MOTION, policy="chunk"), Clip(facts=CHUNKS)),
    "step": (replace(MOTION, policy="step"), Clip()),
    "keys and values in 8 bits": (replace(MOTION, kv_cache="gpu_fp8"), Clip()),
    "no keys and values": (replace(MOTION, kv_cache="off"), Clip()),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_evaluation_reads_once_at_most(name):
    settings, clip = ORDINARY[name]
    run = both(settings, clip.sample, sigmas=LEVELS, **clip.facts)
    assert max(run.reads) <= 1
    assert {"dense", "reuse"} <= set(kinds(run)), kinds(run)
    if settings.policy in ("motion", "random") and settings.kv_cache != "off":
        assert "partial" in kinds(run), kinds(run)


def test_branches_of_one_step_share_its_read():
    run = both(MOTION, Clip(apart, marked=True).sample, sigmas=LEVELS)
    assert run.reads == [1, 0] * STEPS


def test_a_branch_that_was_missing_costs_a_second_read():
    # it might belong to the evaluation before, which only its noise level tells
    run = both(MOTION, Clip(in_turn).sample, allowed=2, sigmas=LEVELS)
    assert max(run.reads) == 2
    assert {"dense", "reuse", "partial"} <= set(kinds(run)), kinds(run)


FORCED = {
    "whole": ForcingOptions(2, 2),
    "one after the other": ForcingOptions(2, 10),
    "rolling window": ForcingOptions(2, 5, window_frames=4),
    "windows": ForcingOptions(2, 1, window_frames=4, overlap_frames=2),
    "compressed keys": ForcingOptions(2, 2, kv_keep=1),
    "both ways": ForcingOptions(2, 2, attention="bidirectional"),
    "both ways, rolling": ForcingOptions(2, 5, attention="bidirectional", window_frames=4),
}


WAYS = (together, 0.0), (apart, 0.75)


@pytest.mark.parametrize(
    "name, grouping, forecast", [(name, *WAYS[i % 2]) for i, name in enumerate(FORCED)]
)
def test_a_forced_evaluation_reads_once_at_most(name, grouping, forecast):
    film = Film((6, 4, 4), steps=9, grouping=grouping, options=FORCED[name])
    settings = replace(MOTION, forecast=forecast)
    run = both(settings, film.sample, sigmas=film.sigmas, profile=PROFILE)
    assert max(run.reads) <= 1
    assert {"partial", "reuse"} <= set(kinds(run)), kinds(run)


def test_masks_of_their_own_in_a_forced_run():
    film = Film((6, 4, 4), steps=9, options=FORCED["both ways"])
    settings = replace(MOTION, cfg_mask="separate")
    run = both(settings, film.sample, sigmas=film.sigmas, profile=PROFILE)
    assert max(run.reads) <= 1


def test_a_read_between_the_blocks_is_seen():
    # the test's own check: an attention hook that reads
    run = Watched(MOTION, sigmas=LEVELS)
    block = run.network.blocks[1]
    block.register_forward_pre_hook(lambda _, args: args[0][0, 0, 0].item() and None)
    with pytest.raises(AssertionError, match=r"makes the host wait|_local_scalar_dense"):
        Clip().sample(run.answer)
