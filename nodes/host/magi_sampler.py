"""MAGI-1's chunk pipeline inside ComfyUI's samplers."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ... import kernels
from ...motioncache_core import (
    CacheShapeError,
    ConflictError,
    ForcingCall,
    RunFacts,
    SettingsError,
    Trace,
    UnsupportedModelError,
    forcing_schedule,
    sample_forcing,
)
from ...motioncache_core.engine.chunks.chunk_session import ChunkSession
from ...motioncache_core.models.magi1.network import MagiNetwork
from ...motioncache_core.models.magi1.options import CHUNK_FRAMES, MagiOptions
from ...motioncache_core.models.magi1.steps import ChunkSteps
from ...motioncache_core.report.trace_recorder import TraceRecorder
from ...motioncache_core.sampling.schedule import ACTIVE
from .chunk_sampler import ChunkSampler, Run, Show
from .compiled import WHOLE, compiled_reason, plain
from .conflicts import check_conflicts
from .magi_network import CHUNK_SESSION, CHUNKS, ChunkIteration
from .memory import memory_facts

# of noise levels that come as fp32
_ROUNDING = 1e-5
# the guider is called with one noise level for all frames
_LEVEL = 1.0


class MagiGuider(comfy.samplers.CFGGuider):
    """Calls the model once: the passes of MAGI-1's guidance are made chunk by chunk, inside."""

    def set_text(self, positive: Any) -> None:
        """The prompt."""
        self.inner_set_conds({"positive": positive})
        self.set_cfg(1.0)


class MagiSampler(ChunkSampler):
    """Denoises chunks of 6 latent frames, each a stage behind the one before it."""

    # the network is called for each of them
    calls_chunks = True

    def __init__(self, options: MagiOptions) -> None:
        self.options, self.steps = options, ChunkSteps(options)

    def prepared(
        self, model_wrap: Any, model_options: dict[str, Any], noise: Tensor, sigmas: Tensor,
        prefix: int,
    ) -> Run:  # fmt: skip
        """The model has to be MAGI-1, and the noise levels this sampler's."""
        self._check(model_wrap, model_options, noise, sigmas)
        transformer_options = model_options["transformer_options"]
        known: ChunkSession | None = transformer_options.get(CHUNK_SESSION)
        session = _bare_session(model_wrap, self.steps) if known is None else known
        done = self._chunk_steps(noise.shape[2], prefix)

        def run(noise: Tensor, latents: Tensor, prefix: int, seed: int, show: Show) -> Tensor:
            def call_guider(x: Tensor, forcing: ForcingCall) -> Tensor:
                iteration = ChunkIteration(session, forcing, self.options)
                out: Tensor = model_wrap(
                    x,
                    x.new_full((x.shape[0],), _LEVEL),
                    model_options={
                        **model_options,
                        "transformer_options": {**transformer_options, CHUNKS: iteration},
                    },
                    seed=seed,
                )
                return out

            def progress(iterations: int, total: int, predicted: Tensor, x: Tensor) -> None:
                show(done[iterations - 1], done[-1], predicted, x)

            try:
                return sample_forcing(
                    call_guider, noise, latents, self.steps.sigmas, self.steps.forcing, prefix,
                    progress=progress,
                )  # fmt: skip
            finally:
                if known is None:
                    session.close()

        return run

    def _chunk_steps(self, frames: int, prefix: int) -> list[int]:
        """Steps of single chunks that are done after each iteration."""
        plan = forcing_schedule(frames, self.options.steps, self.steps.forcing, prefix)
        return list(accumulate(sum(c.role == ACTIVE for c in it.steps) for it in plan))

    def _check(
        self, model_wrap: Any, model_options: dict[str, Any], noise: Tensor, sigmas: Tensor
    ) -> None:
        """Everything that can be known before the first step."""
        check_conflicts(model_options, already=False)
        patcher = model_wrap.model_patcher
        if compiled_reason(patcher, model_options) == WHOLE:
            raise UnsupportedModelError(f"MAGI-1 cannot be sampled: {WHOLE}")
        network = plain(model_wrap.inner_model.diffusion_model)
        check_model(network)
        if model_options.get("context_handler") is not None:
            raise ConflictError(
                "context windows and MAGI-1's chunks both cut the video. Remove the context "
                "window node; MAGI-1 makes videos of any length without one"
            )
        check_latent(network, tuple(noise.shape))
        ours = torch.tensor(self.steps.sigmas)
        if len(sigmas) != len(ours) or (sigmas.cpu() - ours).abs().max() > _ROUNDING:
            raise SettingsError(
                f"the {len(sigmas)} sigmas are not the {len(ours)} of MAGI-1 with "
                f"{self.options.steps} steps. Connect SIGMAS of the same MotionCache Magi "
                "Sampling node that SAMPLER comes from"
            )


def check_model(network: object) -> MagiNetwork:
    """The network, if it is MAGI-1's.

    Raises:
        UnsupportedModelError: it is not.
    """
    if not isinstance(network, MagiNetwork):
        raise UnsupportedModelError(
            f"MotionCache Magi Sampling needs a MAGI-1 model; this one is {type(network).__name__}."
            " Load it with MotionCache Load Magi, or use another sampler"
        )
    return network


def check_latent(network: MagiNetwork, shape: tuple[int, ...]) -> None:
    """Whether MAGI-1 can denoise latents of this shape.

    Raises:
        CacheShapeError: it cannot; says why and what to do.
    """
    make = "Make the latent with MotionCache Magi Latent"
    channels = network.config.channels
    if len(shape) != 5 or shape[1] != channels:
        raise CacheShapeError(
            f"the latent has shape {shape}; MAGI-1 samples (1, {channels}, frames, height, width). "
            + make
        )
    batch, _, frames, height, width = shape
    if batch != 1:
        raise CacheShapeError(
            f"the latent is a batch of {batch} videos; MAGI-1 samples one at a time. Set "
            "batch_size to 1 and queue the workflow several times"
        )
    if frames % CHUNK_FRAMES:
        more = frames + CHUNK_FRAMES - frames % CHUNK_FRAMES
        raise CacheShapeError(
            f"the latent has {frames} frames; MAGI-1 makes chunks of {CHUNK_FRAMES}: give "
            f"{more} latent frames. {make}"
        )
    if height % 2 or width % 2 or min(height, width) < 4:
        raise CacheShapeError(
            f"the latent is {width * 8}x{height * 8} pixels; width and height must be multiples "
            f"of 16, from 32. {make}"
        )


def _bare_session(model_wrap: Any, steps: ChunkSteps) -> ChunkSession:
    """A run in which everything is computed."""
    facts = RunFacts(sigmas=steps.sigmas, **memory_facts(model_wrap.model_patcher.load_device))
    recorder = TraceRecorder(Trace({}), facts)
    return ChunkSession(kernels, facts, "auto", recorder, lambda call, steps: None)
