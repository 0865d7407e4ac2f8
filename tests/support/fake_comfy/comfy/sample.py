"""What the KSampler and SamplerCustom nodes call."""

from __future__ import annotations

import torch

from . import model_management, samplers
from .utils import repeat_to_batch_size


def prepare_noise(latent_image, seed, noise_inds=None):
    # the host seeds the global generator
    generator = torch.manual_seed(seed)
    noise = torch.randn(latent_image.shape, generator=generator, device="cpu")
    return noise.to(latent_image.dtype)


def fix_empty_latent_channels(model, latent_image):
    """An all-zero latent takes the model's channel count and dimensions."""
    latent_format = model.get_model_object("latent_format")
    if torch.count_nonzero(latent_image) == 0:
        latent_image = repeat_to_batch_size(latent_image, latent_format.latent_channels, dim=1)
    if latent_format.latent_dimensions == 3 and latent_image.ndim == 4:
        latent_image = latent_image.unsqueeze(2)
    return latent_image


def _finish(samples):
    return samples.to(model_management.intermediate_device(), model_management.intermediate_dtype())


def sample(
    model,
    noise,
    steps,
    cfg,
    sampler_name,
    scheduler,
    positive,
    negative,
    latent_image,
    denoise=1.0,
    disable_noise=False,
    start_step=None,
    last_step=None,
    force_full_denoise=False,
    noise_mask=None,
    sigmas=None,
    callback=None,
    disable_pbar=False,
    seed=None,
):
    sampler = samplers.KSampler(
        model, steps, model.load_device, sampler_name, scheduler, denoise, model.model_options
    )
    return _finish(sampler.sample(
        noise, positive, negative, cfg, latent_image, start_step, last_step, force_full_denoise,
        noise_mask, sigmas, callback, disable_pbar, seed,
    ))  # fmt: skip


def sample_custom(
    model,
    noise,
    cfg,
    sampler,
    sigmas,
    positive,
    negative,
    latent_image,
    noise_mask=None,
    callback=None,
    disable_pbar=False,
    seed=None,
):
    return _finish(samplers.sample(
        model, noise, positive, negative, cfg, model.load_device, sampler, sigmas,
        model.model_options, latent_image, noise_mask, callback, disable_pbar, seed,
    ))  # fmt: skip
