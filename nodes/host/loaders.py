"""Models and latents through ComfyUI's own loaders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.model_sampling
import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from ...motioncache_core import CalibratedProfile, UnsupportedModelError
from .passes import PROFILE


def load_demo_model(
    weights: dict[str, Tensor], profile: CalibratedProfile | None, shift: float
) -> Any:
    """The demo model through ComfyUI's own loader, with its noise schedule and its profile."""
    model = comfy.sd.load_diffusion_model_state_dict(weights)
    if model is None:
        raise RuntimeError(
            "ComfyUI did not recognise the demo model as a Wan 2.1 model; this ComfyUI is older "
            "than the pack's requires-comfyui"
        )

    class FlowSampling(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        pass

    sampling = FlowSampling(model.model.model_config)
    sampling.set_parameters(shift=shift, multiplier=1000)
    model.add_object_patch("model_sampling", sampling)
    if profile is not None:
        model.model_options.setdefault("transformer_options", {})[PROFILE] = profile
    return model


def to_model_space(samples: Tensor) -> Tensor:
    """Latents as samplers return them to the normalised space the Wan network works in."""
    latents: Tensor = comfy.latent_formats.Wan21().process_in(samples.float())
    return latents


def from_model_space(latents: Tensor) -> Tensor:
    """The inverse of `to_model_space`."""
    samples: Tensor = comfy.latent_formats.Wan21().process_out(latents)
    return samples


def intermediate_device() -> torch.device:
    """Where ComfyUI keeps latents and images between nodes."""
    device: torch.device = comfy.model_management.intermediate_device()
    return device


def diffusion_model_names() -> list[str]:
    """The files of ComfyUI's `diffusion_models` folders (and `unet`, their older name)."""
    import folder_paths

    names: list[str] = folder_paths.get_filename_list("diffusion_models")
    return names


# how ComfyUI's own loader is told what it offers under these names
WEIGHT_DTYPES: dict[str, dict[str, Any]] = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}


def load_wan_file(
    name: str, weight_dtype: str, prepare: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
) -> Any:
    """A file of the `diffusion_models` folders as a model, its tensors passed through `prepare`.

    Raises:
        UnsupportedModelError: this ComfyUI does not know the model.
    """
    import folder_paths

    path = folder_paths.get_full_path_or_raise("diffusion_models", name)

    def load(**options: Any) -> Any:
        tensors, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
        model = comfy.sd.load_diffusion_model_state_dict(
            prepare(tensors),
            model_options=dict(WEIGHT_DTYPES[weight_dtype]),
            metadata=metadata,
            **options,
        )
        if model is None:
            raise UnsupportedModelError(
                f"{name} has the tensors of a Wan model, but this ComfyUI does not know the kind. "
                "Update ComfyUI, or use a file in another format"
            )
        # compiling, hooks and several GPUs load the file again, and need the same tensors
        model.cached_patcher_init = (load, ())
        return model

    return load()
