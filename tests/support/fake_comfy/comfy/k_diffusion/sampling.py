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
