"""Small Wan networks with random weights, and the calls that the engine has to answer exactly."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from torch import Tensor

TEXT_DIM, TEXT_TOKENS = 32, 6


@functools.cache
def small_wan(heads: int = 2, layers: int = 3, **changes: Any) -> DemoWan:
    """All weights random, those that training starts at 0 or 1 included. Made once: a session
    must not change a network, which `test_life_cycle` checks."""
    torch.manual_seed(11)
    net = DemoWan(
        dim=128 * heads, ffn_dim=192, num_layers=layers, text_dim=TEXT_DIM, freq_dim=64, **changes
    )
    for name, weight in net.named_parameters():
        if weight.ndim == 1 or "modulation" in name:
            weight.data += 0.2 * torch.randn_like(weight)
    return net.eval()


@dataclass(frozen=True)
class Case:
    """One kind of call.

    Attributes:
        size: latent frames, rows and columns.
        framewise: a timestep of its own for each frame.
    """

    size: tuple[int, int, int] = (4, 6, 8)
    batch: int = 1
    framewise: bool = False
    image: bool = False
    heads: int = 2

    @property
    def tokens(self) -> int:
        frames, height, width = self.size
        return frames * -(-height // 2) * -(-width // 2)

    def network(self) -> DemoWan:
        """The network for this case."""
        if self.image:
            return small_wan(self.heads, in_dim=36, model_type="i2v")
        return small_wan(self.heads)

    def inputs(self, seed: int) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Latents, timesteps, text states and further arguments; later seeds are less noisy."""
        rng = torch.Generator().manual_seed(seed)
        channels = 36 if self.image else 16
        x = torch.randn(self.batch, channels, *self.size, generator=rng)
        text = torch.Generator().manual_seed(0)
        context = torch.randn(self.batch, TEXT_TOKENS, TEXT_DIM, generator=text)
        t = torch.full((self.batch,), 1000.0 - 75 * seed)
        if self.framewise:
            t = t[:, None] - 90 * torch.arange(self.size[0])
        if not self.image:
            return x, t, context, {}
        return x, t, context, {"clip_fea": torch.randn(self.batch, 5, 1280, generator=text)}


CASES = {
    "text to video": Case(),
    "one head": Case(heads=1),
    "a timestep per frame": Case(framewise=True),
    "image to video": Case(image=True),
    "odd sides": Case(size=(3, 5, 7)),
    "one row of tokens": Case(size=(5, 2, 8)),
    "two samples": Case(batch=2),
    "two samples, a timestep per frame": Case(batch=2, framewise=True, size=(3, 5, 6)),
}
