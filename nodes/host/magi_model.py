"""MAGI-1 as a model of ComfyUI, which does not know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor

from ...motioncache_core.models.magi1.config import MagiConfig
from ...motioncache_core.models.magi1.network import PATCH
from ...motioncache_core.models.magi1.options import CHUNK_FRAMES
from .magi_network import MagiHostNetwork

# bytes for each token of a chunk, by what its activations are as wide as
_BYTES_OF_WIDTH, _BYTES_OF_FFN = 48, 8


class MagiLatentFormat(comfy.latent_formats.LatentFormat):
    """Latents of MAGI-1's VAE."""

    latent_channels = 16
    latent_dimensions = 3
    scale_factor = 0.18215
    temporal_downscale_ratio = 4
    spacial_downscale_ratio = 8


class MagiModelConfig(comfy.supported_models_base.BASE):
    """What ComfyUI keeps beside a model; none of it is looked up in its list of models."""

    unet_config = {"image_model": "magi1"}  # noqa: RUF012
    unet_extra_config = {}  # noqa: RUF012
    # the sampler calls with noise levels of its own
    sampling_settings = {"shift": 1.0, "multiplier": 1.0}  # noqa: RUF012
    latent_format = MagiLatentFormat
    supported_inference_dtypes = [torch.bfloat16, torch.float32]  # noqa: RUF012

    def get_model(
        self, state_dict: Mapping[str, Tensor], prefix: str = "", device: Any = None
    ) -> MagiModel:
        return MagiModel(self, device=device)


class MagiModel(comfy.model_base.BaseModel):
    """The model around the network."""

    def __init__(self, config: MagiModelConfig, device: Any = None) -> None:
        flow = comfy.model_base.ModelType.FLOW
        super().__init__(config, flow, device=device, unet_model=_network)
        # latents and text reach the embedders, which compute in fp32, as they are
        self.manual_cast_dtype = torch.float32

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        out: dict[str, Any] = super().extra_conds(**kwargs)
        durations = kwargs.get("magi_durations")
        if durations is not None:
            out["durations"] = comfy.conds.CONDConstant(durations)
        return out

    def memory_required(self, input_shape: Any, cond_shapes: Any = None) -> float:
        """Bytes that one chunk takes while it is evaluated; keys and values are seen to by the
        run."""
        *_, height, width = input_shape
        config = self.diffusion_model.config
        tokens = CHUNK_FRAMES * (height // PATCH) * (width // PATCH)
        each = _BYTES_OF_WIDTH * config.width + _BYTES_OF_FFN * config.ffn_width
        return float(tokens * each)


def _network(*, operations: Any, **unet_config: Any) -> MagiHostNetwork:
    if operations is comfy.ops.disable_weight_init:
        # its layers do not cast their weights to their input, which comes in fp32 too
        operations = comfy.ops.manual_cast
    unet_config.pop("image_model")
    return MagiHostNetwork(operations=operations, **unet_config)


def build_magi(
    tensors: Mapping[str, Tensor],
    distilled: bool,
    *,
    published: bool = False,
    weight_dtype: torch.dtype | None = None,
    fp8_fast: bool = False,
    custom_operations: Any = None,
    disable_dynamic: bool = False,
) -> Any:
    """A checkpoint's tensors as a model with its patcher.

    Args:
        tensors: by MAGI-1's own names; weights of linear layers in any dtype of floats.
        distilled: whether they are the distilled model's.
        published: the attention's projection in fp32, as published; slower.
        weight_dtype: to store weights of linear layers in; None takes what the file has.
        fp8_fast: multiply in 8 bits where the device can.
        custom_operations: layers of another pack, for its own storage formats.
        disable_dynamic: a patcher that loads weights as a whole.

    Raises:
        UnsupportedModelError: the tensors are not MAGI-1's, or not all of them.
    """
    config = MagiConfig.from_tensors(tensors)
    management = comfy.model_management
    load_device = management.get_torch_device()
    offload_device = management.unet_offload_device()
    made = MagiModelConfig({"image_model": "magi1"})
    supported = made.supported_inference_dtypes
    stored = weight_dtype or _stored_dtype(tensors, supported)
    cast = management.unet_manual_cast(stored, load_device, supported)
    made.set_inference_dtype(stored, cast)
    made.unet_config |= {
        "config": config,
        "distilled": distilled,
        "published": published,
        "compute_dtype": cast or stored,
    }
    made.custom_operations = custom_operations
    made.optimizations["fp8"] = fp8_fast
    model = made.get_model(tensors)
    kind = comfy.model_patcher.ModelPatcher
    if not disable_dynamic:
        kind = getattr(comfy.model_patcher, "CoreModelPatcher", kind)
    patcher = kind(model, load_device=load_device, offload_device=offload_device)
    dynamic = bool(getattr(patcher, "is_dynamic", lambda: False)())
    model.load_model_weights(dict(tensors), "", assign=dynamic)
    return patcher


def _stored_dtype(tensors: Mapping[str, Tensor], supported: list[torch.dtype]) -> torch.dtype:
    """What most weights of linear layers are stored in, as the host would keep them."""
    parameters = comfy.utils.calculate_parameters(tensors)
    told = comfy.utils.weight_dtype(tensors)
    found: torch.dtype = comfy.model_management.unet_dtype(
        model_params=parameters, supported_dtypes=supported, weight_dtype=told
    )
    return found
