"""A MAGI-1 of a few hundred thousand random numbers, to run a graph with nothing downloaded.

It has the build of the real one and draws noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .config import MagiConfig
from .network import MagiNetwork
from .vae import MagiVAE, VaeConfig

_CONFIG = MagiConfig(
    blocks=2, width=128, heads=4, groups=2, head_width=32, ffn_width=256, text_width=64
)
_VAE = VaeConfig(width=256, blocks=1, heads=4, grid=(4, 8, 8))
_CAPTION_ROWS = 12
# how far gains, biases and gates are from doing nothing
_SPREAD, _GATE = 0.2, 0.6


def tiny_network(seed: int) -> dict[str, Tensor]:
    """Tensors of a whole checkpoint, about half a million numbers in fp32."""
    with torch.device("meta"):
        shapes = MagiNetwork(_CONFIG).state_dict()
    random = torch.Generator().manual_seed(seed)
    made = {}
    for name, shaped in shapes.items():
        values = torch.randn(shaped.shape, generator=random)
        if name == "rope.bands":
            count = _CONFIG.head_width // 8
            values = 10000.0 ** -(torch.arange(count) / count)
        elif name.endswith("ada_modulate_layer.proj.0.bias"):
            values = values * _SPREAD + _GATE
        elif name.endswith("null_caption_embedding"):
            pass
        elif values.ndim > 1:
            values /= math.sqrt(values[0].numel())
        else:
            # gains of norms that are not stored less one
            plain = name.endswith(".layer_norm.weight")
            values = values * _SPREAD + (1.0 if plain else 0.0)
        made[name] = values
    return made


def tiny_vae(seed: int) -> dict[str, Tensor]:
    """Tensors of an autoencoder of the same kind, two million numbers in fp32."""
    with torch.device("meta"):
        shapes = MagiVAE(_VAE).state_dict()
    random = torch.Generator().manual_seed(seed)
    made = {}
    for name, shaped in shapes.items():
        values = torch.randn(shaped.shape, generator=random)
        if values.ndim > 1:
            values /= math.sqrt(values[0].numel())
        else:
            norm = "norm" in name and name.endswith("weight")
            values = values * _SPREAD + (1.0 if norm else 0.0)
        made[name] = values
    return made


def tiny_text(seed: int) -> tuple[Tensor, Tensor]:
    """Rows of a caption `(1, n, C)` that says nothing, and rows `(8, C)` of how much is left."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(_CAPTION_ROWS + 8, _CONFIG.text_width, generator=random)
    return rows[None, 8:], rows[:8]
