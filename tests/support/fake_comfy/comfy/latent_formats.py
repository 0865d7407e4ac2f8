"""A latent format that only scales, and Wan 2.1's."""

from __future__ import annotations

import torch

# per-channel statistics of the Wan 2.1 VAE
_MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
         0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)  # fmt: skip
_STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)  # fmt: skip


class LatentFormat:
    scale_factor = 1.0
    latent_channels = 4
    latent_dimensions = 2

    def process_in(self, latent):
        return latent * self.scale_factor

    def process_out(self, latent):
        return latent / self.scale_factor


class Wan21(LatentFormat):
    latent_channels = 16
    latent_dimensions = 3
    spacial_downscale_ratio = 8
    temporal_downscale_ratio = 4

    def __init__(self):
        self.scale_factor = 1.0
        self.latents_mean = torch.tensor(_MEAN).reshape(1, -1, 1, 1, 1)
        self.latents_std = torch.tensor(_STD).reshape(1, -1, 1, 1, 1)

    def process_in(self, latent):
        return (
            (latent - self.latents_mean.to(latent))
            * self.scale_factor
            / self.latents_std.to(latent)
        )

    def process_out(self, latent):
        return latent * self.latents_std.to(latent) / self.scale_factor + self.latents_mean.to(
            latent
        )
