"""What stands in front of MAGI-1's blocks, all in fp32: noise level, text, place in the video."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .config import MagiConfig

_FREQUENCIES = 128
_SLOWEST = 10000.0
_TIME_SCALE = 1000.0


def time_frequencies(device: torch.device) -> Tensor:
    """Frequencies `(128,)` fp32 of the sines and cosines that a noise level becomes.

    Rounded once, where the device knows fp64: processors round their own fp32 exponential
    differently in the last place, which 64 steps make a hundred times as much of.
    """
    steps = torch.arange(_FREQUENCIES, dtype=torch.float32, device=device)
    exponents = -math.log(_SLOWEST) * steps / _FREQUENCIES
    return exponents.exp() if device.type == "mps" else exponents.double().exp().float()


class TimeEmbedder(nn.Module):
    """A number as a vector."""

    def __init__(self, config: MagiConfig, operations: Any, rounded_to: torch.dtype, **where: Any):
        super().__init__()
        self.rounded_to = rounded_to
        width = config.condition_width
        self.mlp = nn.Sequential(
            operations.Linear(2 * _FREQUENCIES, width, **where),
            nn.SiLU(),
            operations.Linear(width, width, **where),
        )

    def forward(self, values: Tensor) -> Tensor:
        """values `(n,)` fp32 to `(n, condition_width)` fp32."""
        angles = values[:, None] * time_frequencies(values.device) * _TIME_SCALE
        features = torch.cat((angles.cos(), angles.sin()), dim=-1)
        # rounded to the dtype of the blocks, as published
        out: Tensor = self.mlp(features.to(self.rounded_to).float())
        return out


class TextEmbedder(nn.Module):
    """Rows of text, and the rows that stand for none."""

    def __init__(self, config: MagiConfig, operations: Any, **where: Any):
        super().__init__()
        width, text = config.width, config.text_width
        self.y_proj_xattn = nn.Sequential(operations.Linear(text, width, **where), nn.SiLU())
        self.y_proj_adaln = nn.Sequential(operations.Linear(text, config.condition_width, **where))
        self.null_caption_embedding = nn.Parameter(torch.zeros(config.text_rows, text, **where))


class Rotary(nn.Module):
    """Learned frequencies of the rotary positions of frames, lines and columns."""

    def __init__(self, config: MagiConfig, **where: Any):
        super().__init__()
        count = config.head_width // 8
        bands = torch.arange(count, dtype=torch.float32, device=where.get("device")) / count
        self.bands = nn.Parameter(1.0 / _SLOWEST**bands)

    def forward(
        self, first: int, grid: tuple[int, int, int], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Cosines and sines `(N, 3 * bands)` fp32 of the tokens of a grid of frames, lines and
        columns, whose first frame stands at `first`."""
        frames, lines, columns = grid
        size = math.sqrt(lines * columns / 256)

        def centred(n: int) -> Tensor:
            place = torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2
            return place / (n - 1) * (n / size - 1)

        time = torch.arange(first, first + frames, dtype=torch.float32, device=device)
        places = torch.meshgrid(time, centred(lines), centred(columns), indexing="ij")
        bands = self.bands.to(device=device, dtype=torch.float32)
        angles = (torch.stack(places, dim=-1)[..., None] * bands).reshape(
            frames * lines * columns, -1
        )
        return angles.cos(), angles.sin()
