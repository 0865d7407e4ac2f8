"""Diffusion forcing inside ComfyUI's samplers."""

from __future__ import annotations

from typing import Any

import comfy.model_sampling
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...motioncache_core import (
    CacheShapeError,
    ConflictError,
    DeviceSessions,
    ForcingCall,
    ForcingOptions,
    MotionCacheSettings,
    RunFacts,
    Trace,
    UnsupportedModelError,
    forcing_schedule,
    sample_forcing,
    takes_frame_levels,
)
from ...motioncache_core.models.adapter import Adapter
from .chunk_sampler import ChunkSampler, Run, Show
from .compiled import WHOLE, compiled_reason, plain
from .conflicts import check_conflicts
from .devices import on_devices
from .memory import memory_facts
from .passes import FORCING, KEY, SESSION
from .tokens import evaluate


class ForcingSampler(ChunkSampler):
    """Denoises chunks of latent frames, each some steps behind the one before it.

    The guider is called with one noise level, the highest of the frames that are being denoised;
    the model gets every frame's own, put in place by the DIFFUSION_MODEL wrapper.
    """

    def __init__(self, options: ForcingOptions) -> None:
        self.options = options

    def prepared(
        self, model_wrap: Any, model_options: dict[str, Any], noise: Tensor, sigmas: Tensor,
        prefix: int,
    ) -> Run:  # fmt: skip
        """See `sample_forcing`."""
        adapter = _check(model_wrap, model_options, noise, sigmas, self.options, prefix)
        transformer_options = model_options["transformer_options"]
        own: DeviceSessions | None = None
        if transformer_options.get(SESSION) is None:
            own = _engine_session(model_wrap, model_options, sigmas)
            wrappers = transformer_options.setdefault("wrappers", {})
            wrappers.setdefault(WrappersMP.DIFFUSION_MODEL, {})[KEY] = [evaluate]
            transformer_options = {**transformer_options, SESSION: own}
        session: DeviceSessions = transformer_options[SESSION]

        def run(noise: Tensor, latents: Tensor, prefix: int, seed: int, show: Show) -> Tensor:
            def call_guider(x: Tensor, forcing: ForcingCall) -> Tensor:
                shifted = adapter.shifted(transformer_options, forcing.first_position)
                options = {**shifted, FORCING: forcing}
                out: Tensor = model_wrap(
                    x,
                    x.new_full((x.shape[0],), forcing.level),
                    model_options={**model_options, "transformer_options": options},
                    seed=seed,
                )
                if not session.reached:
                    # the model took one noise level for all frames
                    raise UnsupportedModelError(f"diffusion forcing is not possible: {WHOLE}")
                return out

            try:
                # the condition noise must not repeat the numbers of the initial noise
                samples = sample_forcing(
                    call_guider, noise, latents, sigmas, self.options, prefix, seed + 1, show
                )
            finally:
                if own is not None:
                    own.close()
            sampling, free = model_wrap.inner_model.model_sampling, samples[:, :, prefix:]
            samples[:, :, prefix:] = sampling.inverse_noise_scaling(sigmas[-1], free)
            return samples

        return run


def _engine_session(
    model_wrap: Any, model_options: dict[str, Any], sigmas: Tensor
) -> DeviceSessions:
    """Carries out the attention mode; reuses nothing."""
    settings = MotionCacheSettings(reuse_threshold=0.0)
    device = model_wrap.model_patcher.load_device
    facts = RunFacts(
        sigmas=sigmas.tolist(),
        **memory_facts(device),
        declined=compiled_reason(model_wrap.model_patcher, model_options),
    )
    trace = Trace(settings.as_dict())
    return on_devices(model_wrap.model_patcher, settings, facts, trace)


def _check(
    model_wrap: Any,
    model_options: dict[str, Any],
    noise: Tensor,
    sigmas: Tensor,
    options: ForcingOptions,
    prefix: int,
) -> Adapter:
    """Everything that can be known before the first step; returns the model's adapter."""
    check_conflicts(model_options, already=False)
    patcher = model_wrap.model_patcher
    compiled = compiled_reason(patcher, model_options)
    if compiled == WHOLE or (compiled and options.attention == "block_causal"):
        raise UnsupportedModelError(f"diffusion forcing is not possible: {compiled}")
    network = plain(model_wrap.inner_model.diffusion_model)
    adapter = takes_frame_levels(network)
    if not isinstance(model_wrap.inner_model.model_sampling, comfy.model_sampling.CONST):
        raise UnsupportedModelError(
            "diffusion forcing needs a flow model; this one's noise schedule is of another kind. "
            "Remove the node that changed it, or use an ordinary sampler"
        )
    if noise.ndim != 5:
        raise CacheShapeError(
            f"the latent has shape {tuple(noise.shape)}; diffusion forcing samples videos (batch, "
            "channels, frames, height, width). Use an empty video latent"
        )
    if model_options.get("context_handler") is not None:
        raise ConflictError(
            "context windows and diffusion forcing both cut the video. Remove the context window "
            "node and set window_frames in the diffusion-forcing sampler"
        )
    schedule = forcing_schedule(noise.shape[2], len(sigmas) - 1, options, prefix)
    if adapter.facts(network).image_to_video and schedule[0].frames < noise.shape[2]:
        raise UnsupportedModelError(
            "this model is given images for every frame, which cannot be cut into windows. Set "
            "window_frames to 0, or use a text-to-video model with a given first frame"
        )
    return adapter
