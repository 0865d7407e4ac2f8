"""Tells models apart by their weights, whatever dtype they are kept in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

# what is looked at: so many small tensors, spread over the model, and the first values of each
_TENSORS, _VALUES = 48, 1024
_SMALL = 1 << 17
# what quantised files add beside a weight
_ADDED = ("scale", "comfy_quant")


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """16 hex digits of the names, the shapes and the signs of a sample of the weights (ours).

    A cast keeps the sign of every value, even of one that becomes zero, so fp32, bf16 and fp8 of
    one model are alike. The sample is of biases, norms and modulations, which quantised files keep
    as they are and which LoRAs leave alone, and no matrix: a model with a LoRA merged into its
    file counts as the model.

    Args:
        weights: by name, as they were loaded, before any patch.
    """
    named = {_plain(name): weight for name, weight in weights.items()}
    kept = {name: named[name] for name in sorted(named) if not _added(name)}
    code = hashlib.sha256()
    for name, weight in kept.items():
        code.update(f"{name} {tuple(weight.shape)}\n".encode())
    small = [w for w in kept.values() if w.ndim != 2 and w.numel() <= _SMALL]
    at = np.linspace(0, len(small) - 1, min(_TENSORS, len(small))).round().astype(int)
    for weight in (small[i] for i in at):
        # a packed or absent weight has no values to look at
        if weight.is_floating_point() and weight.device.type != "meta":
            values = weight.detach().reshape(-1)[:_VALUES].to("cpu", torch.float32)
            code.update(np.packbits(torch.signbit(values).numpy()).tobytes())
    return code.hexdigest()[:16]


def _added(name: str) -> bool:
    return any(word in name.rpartition(".")[2] for word in _ADDED)


def _plain(name: str) -> str:
    # compiled parts have a wrapper between them and their names
    return name.replace("_orig_mod.", "")
