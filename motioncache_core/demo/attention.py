"""Attention of the small Wan: rotary positions, normed queries and keys, the override hook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TransformerOptions = dict[str, Any]


def scaled_dot_product(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **_: object
) -> Tensor:
    """Attention over `(B, N, heads * d)` tensors; `mask` is boolean `(N_q, N_k)`, True = attend."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, options: TransformerOptions) -> Tensor:
    """Attention through the override in `options`, if there is one."""
    override: Callable[..., Tensor] | None = options.get("optimized_attention_override")
    if override is None:
        return scaled_dot_product(q, k, v, heads=heads)
    return override(scaled_dot_product, q, k, v, heads=heads, transformer_options=options)


def rotary_table(
    grid: tuple[int, int, int], head_dim: int, device: torch.device, first_frame: float = 0.0
) -> Tensor:
    """Rotation matrices `(1, F*H*W, 1, head_dim/2, 2, 2)` fp32 of a frame-major token grid.

    Args:
        first_frame: temporal position of the first frame.
    """
    side = 2 * (head_dim // 6)
    axes = (head_dim - 2 * side, side, side)
    places = [torch.arange(n, device=device, dtype=torch.float64) for n in grid]
    ids = torch.meshgrid(places[0] + first_frame, *places[1:], indexing="ij")
    angles = []
    for position, dim in zip(ids, axes, strict=True):
        exponent = torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim
        angles.append(position.reshape(-1, 1) * 10000.0**-exponent)
    angle = torch.cat(angles, dim=1)
    cos, sin = angle.cos(), angle.sin()
    table = torch.stack((cos, -sin, sin, cos), dim=-1).float()
    return table.reshape(1, -1, 1, head_dim // 2, 2, 2)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Apply `rotary_table` rows to `(B, N, heads, head_dim)`; pairs are interleaved."""
    pairs = x.float().reshape(*x.shape[:-1], -1, 1, 2)
    out: Tensor = table[..., 0] * pairs[..., 0] + table[..., 1] * pairs[..., 1]
    return out.flatten(-2).type_as(x)


def timestep_features(t: Tensor, dim: int) -> Tensor:
    """Sinusoidal features `(N, dim)` of timesteps `(N,)` in 0..1000."""
    frequency = 10000.0 ** -(torch.arange(dim // 2, device=t.device).float() / (dim // 2))
    angle = t.float()[:, None] * frequency
    return torch.cat((angle.cos(), angle.sin()), dim=1)


def spread(e: Tensor, tokens: int) -> Tensor:
    """Modulation `(B, T, C)` with one row per token: T is 1, a divisor of `tokens`, or `tokens`."""
    return e if e.shape[1] in (1, tokens) else e.repeat_interleave(tokens // e.shape[1], dim=1)


class Attention(nn.Module):
    """Multi-head attention with RMS-normed queries and keys."""

    def __init__(self, dim: int, heads: int, image: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = nn.RMSNorm(dim, eps=1e-6), nn.RMSNorm(dim, eps=1e-6)
        self.image = image
        if image:
            self.k_img, self.v_img = nn.Linear(dim, dim), nn.Linear(dim, dim)
            self.norm_k_img = nn.RMSNorm(dim, eps=1e-6)

    def self_attention(self, x: Tensor, table: Tensor, options: TransformerOptions) -> Tensor:
        q = rotate(self.norm_q(self.q(x)).unflatten(2, (self.heads, -1)), table).flatten(2)
        k = rotate(self.norm_k(self.k(x)).unflatten(2, (self.heads, -1)), table).flatten(2)
        out: Tensor = self.o(attend(q, k, self.v(x), self.heads, options))
        return out

    def cross_attention(
        self, x: Tensor, context: Tensor, image_tokens: int, options: TransformerOptions
    ) -> Tensor:
        q = self.norm_q(self.q(x))
        extra: Tensor | float = 0.0
        if self.image:
            image, context = context[:, :image_tokens], context[:, image_tokens:]
            k = self.norm_k_img(self.k_img(image))
            extra = attend(q, k, self.v_img(image), self.heads, options)
        k = self.norm_k(self.k(context))
        out: Tensor = self.o(attend(q, k, self.v(context), self.heads, options) + extra)
        return out
