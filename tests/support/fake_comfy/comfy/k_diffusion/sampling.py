"""Sampler loops: `sample_<name>(model, x, sigmas, ...)` with `model(x, sigma) -> x0`."""

from __future__ import annotations

from itertools import pairwise

import torch


def _slope(x, sigma, denoised):
    return (x - denoised) / sigma


def _report(callback, i, x, sigma, denoised):
    if callback is not None:
        callback({"x": x, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})


@torch.no_grad()
def sample_euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
    extra_args, ones = extra_args or {}, x.new_ones([x.shape[0]])
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        denoised = model(x, sigma * ones, **extra_args)
        _report(callback, i, x, sigma, denoised)
        x = x + _slope(x, sigma, denoised) * (following - sigma)
    return x


@torch.no_grad()
def sample_heun(model, x, sigmas, extra_args=None, callback=None, disable=None):
    extra_args, ones = extra_args or {}, x.new_ones([x.shape[0]])
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        denoised = model(x, sigma * ones, **extra_args)
        _report(callback, i, x, sigma, denoised)
        slope = _slope(x, sigma, denoised)
        if following > 0:
            guess = x + slope * (following - sigma)
            second = _slope(guess, following, model(guess, following * ones, **extra_args))
            slope = (slope + second) / 2
        x = x + slope * (following - sigma)
    return x


@torch.no_grad()
def sample_euler_ancestral(
    model, x, sigmas, extra_args=None, callback=None, disable=None, eta=1.0, s_noise=1.0,
    noise_sampler=None,
):  # fmt: skip
    """As the host does it for flow models."""
    extra_args, ones = extra_args or {}, x.new_ones([x.shape[0]])
    if noise_sampler is None:
        own = torch.Generator(device=x.device).manual_seed((extra_args.get("seed") or 0) + 1)

        def noise_sampler(*_):
            return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=own)

    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        denoised = model(x, sigma * ones, **extra_args)
        _report(callback, i, x, sigma, denoised)
        if following == 0:
            x = denoised
            continue
        down = following * (1 + (following / sigma - 1) * eta)
        x = x * down / sigma + denoised * (1 - down / sigma)
        kept = (1 - following) / (1 - down)
        added = (following**2 - (down * kept) ** 2) ** 0.5
        x = kept * x + added * s_noise * noise_sampler(sigma, following)
    return x
