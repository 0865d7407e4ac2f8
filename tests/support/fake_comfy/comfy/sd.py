from __future__ import annotations

from . import model_management
from .model_base import WAN21
from .model_patcher import ModelPatcher

# a default that nobody writes to
_EMPTY = {}

_factory = None


def set_network_factory(factory):
    """Set `factory(state_dict) -> network` for the loading below; returns the earlier one."""
    global _factory
    previous, _factory = _factory, factory
    return previous


def load_diffusion_model_state_dict(sd, model_options=_EMPTY, metadata=None):
    if _factory is None:
        raise RuntimeError("call fake_comfy.set_network_factory(fn) before loading a state dict")
    device = model_management.get_torch_device()
    return ModelPatcher(WAN21(_factory(sd)), device, model_management.unet_offload_device())
