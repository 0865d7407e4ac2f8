"""The model around a network: sigma to timestep, velocity to x0, and the two innermost wrappers."""

from __future__ import annotations

import math
from enum import Enum
from types import SimpleNamespace

import torch

from . import model_management
from .conds import CONDRegular
from .latent_formats import Wan21
from .model_sampling import ModelSampling
from .ops import manual_cast
from .patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers


class ModelType(Enum):
    FLOW = 6


# a default that nobody writes to
_EMPTY = {}


class BaseModel(torch.nn.Module):
    """A network `forward(x, timestep, context, ..., transformer_options)` as a ComfyUI model.

    Runs the DIFFUSION_MODEL wrappers around the network, unless `network.runs_wrappers`. As in
    the host, it is also made of a config and of what builds the network, which then runs them.
    """

    def __init__(self, network, shift=8.0, memory_usage_factor=1.0, device=None, unet_model=None):
        super().__init__()
        config = SimpleNamespace(sampling_settings={"shift": shift}, unet_config={})
        self.latent_format = Wan21()
        if unet_model is not None:
            config, layers = network, network.custom_operations or manual_cast
            network = unet_model(**config.unet_config, device=device, operations=layers)
            network.requires_grad_(False).runs_wrappers = True
            self.latent_format = config.latent_format
        self.model_config = config
        self.model_sampling = ModelSampling(self.model_config)
        self.diffusion_model = network
        self.manual_cast_dtype = getattr(config, "manual_cast_dtype", None)
        self.memory_usage_factor = memory_usage_factor
        self.current_patcher = None
        self.device = model_management.get_torch_device()

    def load_model_weights(self, sd, unet_prefix="", assign=False):
        self.diffusion_model.load_state_dict(
            {k.removeprefix(unet_prefix): v for k, v in sd.items()}, strict=False, assign=assign
        )

    def get_dtype(self):
        first = next(self.diffusion_model.parameters(), None)
        return torch.float32 if first is None else first.dtype

    def get_dtype_inference(self):
        return self.get_dtype() if self.manual_cast_dtype is None else self.manual_cast_dtype

    def process_latent_in(self, latent):
        return self.latent_format.process_in(latent)

    def process_latent_out(self, latent):
        return self.latent_format.process_out(latent)

    def process_timestep(self, timestep, **kwargs):
        return timestep

    def scale_latent_inpaint(self, sigma, noise, latent_image, **kwargs):
        sigma = sigma.reshape([sigma.shape[0]] + [1] * (noise.ndim - 1))
        return self.model_sampling.noise_scaling(sigma, noise, latent_image)

    def memory_required(self, input_shape, cond_shapes=_EMPTY):
        area = input_shape[0] * math.prod(input_shape[2:])
        return area * 0.15 * self.memory_usage_factor * (1 << 20)

    def extra_conds(self, **kwargs):
        text = kwargs.get("cross_attn")
        return {} if text is None else {"c_crossattn": CONDRegular(text)}

    def apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None,
                    transformer_options=_EMPTY, **kwargs):  # fmt: skip
        wrappers = get_all_wrappers(WrappersMP.APPLY_MODEL, transformer_options)
        executor = WrapperExecutor.new_class_executor(self._apply_model, self, wrappers)
        return executor.execute(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    def _apply_model(self, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        # the host looks at the flag in every layer
        model_management.throw_exception_if_processing_interrupted()
        xc = self.model_sampling.calculate_input(t, x)
        if c_concat is not None:
            xc = torch.cat([xc, c_concat.to(xc)], dim=1)
        dtype = self.get_dtype_inference()
        timestep = self.process_timestep(self.model_sampling.timestep(t).float(), x=x, **kwargs)
        options = {**transformer_options, "prefetch_dynamic_vbars": False}
        conds = {"context": c_crossattn.to(xc.device, dtype), "control": control, **kwargs}
        output = run_network(self.diffusion_model, xc.to(dtype), timestep, options, conds)
        return self.model_sampling.calculate_denoised(t, output.float(), x)


class WAN21(BaseModel):
    def extra_conds(self, **kwargs):
        conds = super().extra_conds(**kwargs)
        image = kwargs.get("concat_latent_image")
        if image is not None:
            # a frame is given where the mask is 0
            given = 1.0 - kwargs["concat_mask"].expand(-1, 4, -1, -1, -1)
            shown = torch.cat([given, self.process_latent_in(image)], dim=1)
            conds["c_concat"] = CONDRegular(shown)
        return conds


def run_network(network, x, timestep, options, conds):
    """Call the network with Wan's argument order, inside the DIFFUSION_MODEL wrappers."""
    if getattr(network, "runs_wrappers", False):
        return network(x, timestep, transformer_options=options, **conds)
    conds = dict(conds)
    args = [x, timestep, conds.pop("context", None), conds.pop("clip_fea", None)]
    args += [conds.pop("time_dim_concat", None), options]
    wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
    executor = WrapperExecutor.new_class_executor(network, network, wrappers)
    return executor.execute(*args, **conds)
