"""Flow matching: `x = (1 - sigma) * x0 + sigma * noise`, the network predicts `noise - x0`."""

from __future__ import annotations

import torch


def reshape_sigma(sigma, noise_dim):
    # one sigma for each batch element: a per-frame sigma (B, F) fails here, as in the host
    return sigma if sigma.nelement() == 1 else sigma.view(sigma.shape[:1] + (1,) * (noise_dim - 1))


def time_snr_shift(alpha, t):
    return t if alpha == 1.0 else alpha * t / (1 + (alpha - 1) * t)


class CONST:
    def calculate_input(self, sigma, noise):
        return noise

    def calculate_denoised(self, sigma, model_output, model_input):
        return model_input - model_output * reshape_sigma(sigma, model_output.ndim)

    def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
        sigma = reshape_sigma(sigma, noise.ndim)
        return sigma * noise + (1.0 - sigma) * latent_image

    def inverse_noise_scaling(self, sigma, latent):
        return latent / (1.0 - reshape_sigma(sigma, latent.ndim))


class ModelSamplingDiscreteFlow(torch.nn.Module):
    def __init__(self, model_config=None):
        super().__init__()
        settings = {} if model_config is None else model_config.sampling_settings
        shift, multiplier = settings.get("shift", 1.0), settings.get("multiplier", 1000)
        self.set_parameters(shift=shift, multiplier=multiplier)

    def set_parameters(self, shift=1.0, timesteps=1000, multiplier=1000):
        self.shift, self.multiplier = shift, multiplier
        steps = torch.arange(1, timesteps + 1, 1) / timesteps
        self.register_buffer("sigmas", self.sigma(steps * multiplier))

    @property
    def sigma_min(self):
        return self.sigmas[0]

    @property
    def sigma_max(self):
        return self.sigmas[-1]

    def timestep(self, sigma):
        return sigma * self.multiplier

    def sigma(self, timestep):
        return time_snr_shift(self.shift, timestep / self.multiplier)

    def percent_to_sigma(self, percent):
        return time_snr_shift(self.shift, min(max(1.0 - percent, 0.0), 1.0))


class ModelSampling(ModelSamplingDiscreteFlow, CONST):
    pass
