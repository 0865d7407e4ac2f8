"""Diffusion forcing inside ComfyUI's samplers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import comfy.model_sampling
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor
from tqdm.auto import tqdm

from ...motioncache_core import (
    CacheShapeError,
    ConflictError,
    DeviceSessions,
    ForcingCall,
    ForcingOptions,
    MotionCacheSettings,
    RunFacts,
    SettingsError,
    Trace,
    UnsupportedModelError,
    forcing_schedule,
    sample_forcing,
    takes_frame_levels,
)
from ...motioncache_core.models.adapter import Adapter
from .compiled import WHOLE, compiled_reason, plain
from .conflicts import check_conflicts
from .devices import on_devices
from .memory import memory_facts
from .passes import FORCING, KEY, SESSION
from .tokens import evaluate

log = logging.getLogger(__name__)

# masks come through an interpolation, exact but for rounding
_MASK_ROUNDING = 1e-3


class ForcingSampler(comfy.samplers.Sampler):
    """Denoises chunks of latent frames, each some steps behind the one before it.

    The guider is called with one noise level, the highest of the frames that are being denoised;
    the model gets every frame's own, put in place by the DIFFUSION_MODEL wrapper.
    """

    # tells a run's session that it is to tell chunks apart
    denoises_chunks = True

    def __init__(self, options: ForcingOptions) -> None:
        self.options = options

    @torch.no_grad()
    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[[int, Tensor, Tensor, int], None] | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Sample the clip; see `sample_forcing`.

        Raises:
            UnsupportedModelError: the model takes no noise level per frame.
            SettingsError: the options do not fit the clip, or the noise mask is not a prefix.
            CacheShapeError: the latent is not a video.
            ConflictError: another cache, or context windows, are in the way.
        """
        latents = torch.zeros_like(noise) if latent_image is None else latent_image
        prefix = 0 if denoise_mask is None else prefix_frames(denoise_mask)
        model_options = extra_args["model_options"]
        adapter = _check(model_wrap, model_options, noise, sigmas, self.options, prefix)
        transformer_options = model_options["transformer_options"]
        own: DeviceSessions | None = None
        if transformer_options.get(SESSION) is None:
            own = _engine_session(model_wrap, model_options, sigmas)
            wrappers = transformer_options.setdefault("wrappers", {})
            wrappers.setdefault(WrappersMP.DIFFUSION_MODEL, {})[KEY] = [evaluate]
            transformer_options = {**transformer_options, SESSION: own}
        session: DeviceSessions = transformer_options[SESSION]
        seed = extra_args.get("seed") or 0

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

        with tqdm(disable=disable_pbar) as bar:

            def progress(done: int, total: int, predicted: Tensor, x: Tensor) -> None:
                bar.total = total
                bar.update()
                if callback is not None:
                    callback(done - 1, predicted, x, total)

            try:
                # the condition noise must not repeat the numbers of the initial noise
                samples = sample_forcing(
                    call_guider, noise, latents, sigmas, self.options, prefix, seed + 1, progress
                )
            finally:
                if own is not None:
                    own.close()
        sampling = model_wrap.inner_model.model_sampling
        samples[:, :, prefix:] = sampling.inverse_noise_scaling(sigmas[-1], samples[:, :, prefix:])
        return samples


def prefix_frames(mask: Tensor) -> int:
    """Leading latent frames that a noise mask `(B, C, F, H, W)` keeps.

    Raises:
        SettingsError: a frame is kept in part, or kept behind a frame that is sampled.
    """
    if mask.ndim != 5:
        raise SettingsError(
            f"the noise mask has shape {tuple(mask.shape)}; a video's has 5 dimensions. Use "
            "MotionCache Extend Video, or a mask with one picture per latent frame"
        )
    frames = mask.transpose(1, 2).flatten(2)
    low, high = frames.amin(dim=(0, 2)).tolist(), frames.amax(dim=(0, 2)).tolist()
    kept = []
    for i, (least, most) in enumerate(zip(low, high, strict=True)):
        if most <= _MASK_ROUNDING:
            kept.append(True)
        elif least >= 1 - _MASK_ROUNDING:
            kept.append(False)
        else:
            raise SettingsError(
                f"the noise mask of latent frame {i} goes from {least:.3g} to {most:.3g}; a frame "
                "is kept (0) or sampled (1) as a whole. Use one mask picture per latent frame, all "
                "black or all white"
            )
    prefix = kept.index(False) if False in kept else len(kept)
    if any(kept[prefix:]):
        raise SettingsError(
            f"the noise mask keeps latent frame {prefix + kept[prefix:].index(True)} behind frame "
            f"{prefix}, which is sampled; only frames at the start can be given"
        )
    return prefix


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
