"""Devices, memory and the interrupt flag: one CPU with a fixed amount of free memory."""

from __future__ import annotations

import torch

OOM_EXCEPTION = torch.OutOfMemoryError
FREE_MEMORY = 8 << 30

_interrupted = False


# not an Exception in 0.33: `except Exception` does not see it
class InterruptProcessingException(BaseException):
    pass


def interrupt_current_processing(value=True):
    global _interrupted
    _interrupted = value


def processing_interrupted():
    return _interrupted


def throw_exception_if_processing_interrupted():
    if _interrupted:
        interrupt_current_processing(False)
        raise InterruptProcessingException


def get_torch_device():
    return torch.device("cpu")


def unet_offload_device():
    return torch.device("cpu")


def vae_device():
    return torch.device("cpu")


def vae_offload_device():
    return torch.device("cpu")


_DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def vae_dtype(device=None, allowed_dtypes=()):
    return torch.float32


def unet_dtype(device=None, model_params=0, supported_dtypes=_DTYPES, weight_dtype=None):
    return torch.float32 if weight_dtype not in supported_dtypes else weight_dtype


def unet_manual_cast(weight_dtype, inference_device, supported_dtypes=_DTYPES):
    # a CPU computes in fp32
    return None if weight_dtype == torch.float32 else torch.float32


def intermediate_device():
    return torch.device("cpu")


def intermediate_dtype():
    return torch.float32


def get_free_memory(dev=None, torch_free_too=False):
    return (FREE_MEMORY, 0) if torch_free_too else FREE_MEMORY


# everything that is loaded, the model in use among it
current_loaded_models: list = []


def free_memory(memory_required, device, keep_loaded=(), for_dynamic=False):
    return []


def load_models_gpu(
    models, memory_required=0, force_patch_weights=False, minimum_memory_required=None,
    force_full_load=False,
):  # fmt: skip
    for patcher in models:
        patcher.load_for_run()


def module_size(module):
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())


def dtype_size(dtype):
    return torch.empty((), dtype=dtype).element_size()
