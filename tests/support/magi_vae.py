"""A small autoencoder of MAGI-1's build, with weights that a seed gives on every machine."""

from __future__ import annotations

import numpy as np
import torch

WIDTH, GRID = 256, (4, 8, 8)
# frames and pixels of the recorded video; latents of the recorded decoding
VIDEO, LATENTS = (1, 3, 17, 208, 264), (1, 16, 4, 26, 33)


def shapes(blocks: int = 1) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a file."""
    c, (t, h, w) = WIDTH, GRID
    block = {
        "attn.qkv.weight": (3 * c, c), "attn.qkv.bias": (3 * c,), "attn.proj.weight": (c, c),
        "attn.proj.bias": (c,), "norm2.weight": (c,), "norm2.bias": (c,),
        "mlp.fc1.weight": (4 * c, c), "mlp.fc1.bias": (4 * c,), "mlp.fc2.weight": (c, 4 * c),
        "mlp.fc2.bias": (c,),
    }  # fmt: skip
    trunk = {f"blocks.{i}.{name}": shape for i in range(blocks) for name, shape in block.items()}
    trunk |= {"cls_token": (1, 1, c), "pos_embed": (1, 1 + t * h * w, c)}
    trunk |= {"norm.weight": (c,), "norm.bias": (c,)}
    encoder = {
        "patch_embed.proj.weight": (c, 3, 4, 8, 8), "patch_embed.proj.bias": (c,),
        "last_layer.weight": (32, c), "last_layer.bias": (32,),
    }  # fmt: skip
    decoder = {
        "proj_in.weight": (c, 16), "proj_in.bias": (c,),
        "last_layer.weight": (3, c // 256, 3, 3, 3), "last_layer.bias": (3,),
    }  # fmt: skip
    return {
        **{f"encoder.{name}": shape for name, shape in (trunk | encoder).items()},
        **{f"decoder.{name}": shape for name, shape in (trunk | decoder).items()},
    }


def weights(seed: int = 0, blocks: int = 1) -> dict[str, torch.Tensor]:
    """The tensors of a file, with gains, biases and positions that are clearly there."""
    random = np.random.RandomState(seed)
    made = {}
    for name, shape in sorted(shapes(blocks).items()):
        values = random.standard_normal(shape)
        if name.endswith(("pos_embed", "cls_token")):
            values *= 0.5
        elif len(shape) > 1:
            values /= np.sqrt(np.prod(shape[1:]))
        else:
            values *= 0.2
            values += "norm" in name and name.endswith("weight")
        made[name] = torch.from_numpy(values.astype(np.float32))
    return made


def recorded_inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """The video in [-1, 1] and the latents that were recorded."""
    random = np.random.RandomState(1)
    video = np.tanh(random.standard_normal(VIDEO)).astype(np.float32)
    latents = random.standard_normal(LATENTS).astype(np.float32)
    return torch.from_numpy(video), torch.from_numpy(latents)


def thinned(video: torch.Tensor) -> torch.Tensor:
    """What is recorded of a decoded video: every third frame, line and column."""
    return video[:, :, ::3, ::3, ::3].contiguous()
