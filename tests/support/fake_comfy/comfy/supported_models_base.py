"""What the host keeps beside a model: how its network is built, and its latent format."""

from __future__ import annotations


class BASE:
    custom_operations = manual_cast_dtype = quant_config = None
    memory_usage_factor = 2.0

    def __init__(self, unet_config):
        self.unet_config = {**unet_config, **self.unet_extra_config}
        self.sampling_settings = dict(self.sampling_settings)
        self.latent_format, self.optimizations = self.latent_format(), {"fp8": False}

    def set_inference_dtype(self, dtype, manual_cast_dtype, device=None):
        self.unet_config["dtype"], self.manual_cast_dtype = dtype, manual_cast_dtype
