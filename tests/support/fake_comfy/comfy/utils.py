"""Dotted attributes, option copies and the progress bar."""

from __future__ import annotations

from collections import Counter

import torch.nn.functional as F
from safetensors.torch import load_file

PROGRESS_BAR_HOOK = None


def set_progress_bar_global_hook(function):
    global PROGRESS_BAR_HOOK
    PROGRESS_BAR_HOOK = function


class ProgressBar:
    """Tells the hook `(value, total, preview, node_id=)` at each update; the host throttles."""

    def __init__(self, total, node_id=None):
        self.total, self.current, self.node_id = total, 0, node_id
        self.hook = PROGRESS_BAR_HOOK

    def update_absolute(self, value, total=None, preview=None):
        self.total = self.total if total is None else total
        self.current = min(value, self.total)
        if self.hook is not None:
            self.hook(self.current, self.total, preview, node_id=self.node_id)

    def update(self, value):
        self.update_absolute(self.current + value)


def load_torch_file(ckpt, safe_load=False, device=None, return_metadata=False):
    tensors = load_file(ckpt)
    return (tensors, {}) if return_metadata else tensors


def calculate_parameters(sd, prefix=""):
    return sum(value.nelement() for name, value in sd.items() if name.startswith(prefix))


def weight_dtype(sd, prefix=""):
    counts = Counter()
    for name, value in sd.items():
        if name.startswith(prefix):
            counts[value.dtype] += value.numel()
    return counts.most_common(1)[0][0] if counts else None


def get_attr(obj, attr):
    for name in attr.split("."):
        obj = getattr(obj, name)
    return obj


def set_attr(obj, attr, value):
    """Set a dotted attribute and return what was there."""
    *path, name = attr.split(".")
    owner = get_attr(obj, ".".join(path)) if path else obj
    previous = getattr(owner, name)
    setattr(owner, name, value)
    return previous


def deepcopy_list_dict(obj):
    """Copy dicts and lists at every depth, share the leaves."""
    if isinstance(obj, dict):
        return {key: deepcopy_list_dict(value) for key, value in obj.items()}
    return [deepcopy_list_dict(value) for value in obj] if isinstance(obj, list) else obj


def repeat_to_batch_size(tensor, batch_size, dim=0):
    size = tensor.shape[dim]
    if size >= batch_size:
        return tensor.narrow(dim, 0, batch_size)
    repeats = [1] * tensor.ndim
    repeats[dim] = -(-batch_size // size)
    return tensor.repeat(repeats).narrow(dim, 0, batch_size)


def reshape_mask(input_mask, output_shape):
    """A noise mask in the latent's shape; a video takes the pictures of a mask as its frames."""
    size = tuple(output_shape[2:])
    picture = input_mask.shape[-2:]
    if len(size) == 2:
        input_mask = input_mask.reshape(-1, 1, *picture)
    elif input_mask.ndim < 5:
        input_mask = input_mask.reshape(1, 1, -1, *picture)
    mode = "bilinear" if len(size) == 2 else "trilinear"
    mask = F.interpolate(input_mask, size=size, mode=mode)
    mask = repeat_to_batch_size(mask, output_shape[1], dim=1)
    return repeat_to_batch_size(mask, output_shape[0])
