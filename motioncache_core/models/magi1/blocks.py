"""MAGI-1's transformer block: self- and cross-attention side by side, gates bounded by tanh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import MagiConfig
from .operations import CenteredNorm

# queries (B, N, heads * D), keys and values (B, M, groups * D) -> (B, N, heads * D)
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
# queries (B, N, heads * D), fresh keys and values (B, N, groups * D) of the active rows -> the keys
# and values that they may attend to
Keys = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotates channel i with channel i + n of every head, for n angles; the rest stays.

    Args:
        x: `(B, N, heads, D)`.
        cosines, sines: `(N, n)`.
    """
    n = cosines.shape[-1]
    first, second, rest = x.split((n, n, x.shape[-1] - 2 * n), dim=-1)
    cos, sin = cosines[:, None], sines[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


class Projections(nn.Module):
    """Queries of both attentions, and keys and values of the self-attention."""

    def __init__(self, config: MagiConfig, operations: Any, compute: torch.dtype, **where: Any):
        super().__init__()
        width, queries, keys = config.width, config.query_width, config.key_width
        norm = {**where, "dtype": compute}
        self.layer_norm = operations.LayerNorm(width, eps=config.norm_eps, **norm)
        self.q = operations.Linear(width, queries, bias=False, **where)
        self.qx = operations.Linear(width, queries, bias=False, **where)
        self.k = operations.Linear(width, keys, bias=False, **where)
        self.v = operations.Linear(width, keys, bias=False, **where)


class Attention(nn.Module):
    """Attention to the video and to the text, projected together."""

    def __init__(
        self,
        config: MagiConfig,
        operations: Any,
        published: bool,
        stored: torch.dtype,
        compute: torch.dtype,
        device: torch.device | None,
    ):
        super().__init__()
        self.config, self.published = config, published
        where = {"dtype": stored, "device": device}
        self.linear_qkv = Projections(config, operations, compute, **where)
        keys = 2 * config.key_width
        self.linear_kv_xattn = operations.Linear(config.width, keys, bias=False, **where)
        self.linear_proj = operations.Linear(
            2 * config.query_width, config.width, bias=False, **where
        )
        head, eps = config.head_width, config.norm_eps
        self.q_layernorm = CenteredNorm(head, eps, torch.float32, device)
        self.k_layernorm = CenteredNorm(head, eps, torch.float32, device)
        self.q_layernorm_xattn = CenteredNorm(head, eps, compute, device)
        self.k_layernorm_xattn = CenteredNorm(head, eps, compute, device)

    def forward(
        self, x: Tensor, text: Tensor, rotary: tuple[Tensor, Tensor], keys: Keys, attend: Attend
    ) -> Tensor:
        """x `(B, N, C)`, text `(B, M, C)`; `(B, N, C)` in fp32 or in x's dtype."""
        project = self.linear_qkv
        h = project.layer_norm(x)
        q = self._placed(self.q_layernorm, project.q(h), rotary)
        k = self._placed(self.k_layernorm, project.k(h), rotary)
        own = attend(q, *keys(q, k, project.v(h)))
        qx = self.q_layernorm_xattn(self._heads(project.qx(h))).flatten(2)
        groups = self.config.groups
        kx, vx = self.linear_kv_xattn(text).unflatten(-1, (groups, -1)).chunk(2, dim=-1)
        cross = attend(qx, self.k_layernorm_xattn(kx).flatten(2), vx.flatten(2))
        # the projection knows the heads of a group of both attentions side by side
        sides = [t.unflatten(-1, (groups, -1)) for t in (own, cross)]
        both = torch.cat(sides, dim=-1).flatten(2)
        out: Tensor = self.linear_proj(both.float() if self.published else both)
        return out

    def _heads(self, x: Tensor) -> Tensor:
        out: Tensor = x.unflatten(-1, (-1, self.config.head_width))
        return out

    def _placed(self, norm: nn.Module, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        return rotate(norm(self._heads(x).float()), *rotary).flatten(2).to(x.dtype)


class Gate(nn.Module):
    """How much of each channel of the two parts of a block is added."""

    def __init__(self, config: MagiConfig, operations: Any, compute: torch.dtype, **where: Any):
        super().__init__()
        width = config.width
        # few numbers that steer all others
        where["dtype"] = compute
        self.proj = nn.Sequential(operations.Linear(config.condition_width, 2 * width, **where))

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """condition `(B, condition_width)`; two gates `(B, 1, C)` fp32."""
        raw = self.proj(F.silu(condition))
        gates = torch.tanh(raw.float()).to(raw.dtype).float()[:, None]
        attention, feed_forward = gates.chunk(2, dim=-1)
        return attention, feed_forward


class FeedForward(nn.Module):
    """Norm and two linear layers, with GELU or SwiGLU between them."""

    def __init__(self, config: MagiConfig, operations: Any, compute: torch.dtype, **where: Any):
        super().__init__()
        self.gated = config.gated
        width, inner = config.width, config.ffn_width
        norm = {**where, "dtype": compute}
        self.layer_norm = operations.LayerNorm(width, eps=config.norm_eps, **norm)
        rows = 2 * inner if config.gated else inner
        self.linear_fc1 = operations.Linear(width, rows, bias=False, **where)
        self.linear_fc2 = operations.Linear(inner, width, bias=False, **where)

    def forward(self, x: Tensor) -> Tensor:
        h = self.linear_fc1(self.layer_norm(x))
        if self.gated:
            gate, value = h.chunk(2, dim=-1)
            h = (F.silu(gate.float()) * value.float()).to(h.dtype)
        else:
            h = F.gelu(h)
        out: Tensor = self.linear_fc2(h)
        return out


class Block(nn.Module):
    """One of the blocks; the modules bear the names of the checkpoint.

    Args:
        stored: dtype of the weights of linear layers.
        compute: dtype that the block computes in, but for its outer norms.
    """

    def __init__(
        self,
        config: MagiConfig,
        operations: Any,
        published: bool,
        stored: torch.dtype,
        compute: torch.dtype,
        device: torch.device | None,
    ):
        super().__init__()
        where = {"dtype": stored, "device": device}
        self.ada_modulate_layer = Gate(config, operations, compute, **where)
        self.self_attention = Attention(config, operations, published, stored, compute, device)
        width, eps = config.width, config.norm_eps
        self.self_attn_post_norm = CenteredNorm(width, eps, torch.float32, device)
        self.mlp = FeedForward(config, operations, compute, **where)
        self.mlp_post_norm = CenteredNorm(width, eps, torch.float32, device)

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        text: Tensor,
        rotary: tuple[Tensor, Tensor],
        keys: Keys,
        attend: Attend,
    ) -> Tensor:
        """x `(B, N, C)`, condition `(B, condition_width)`, text `(B, M, C)`; `(B, N, C)`."""
        gate, gate_mlp = self.ada_modulate_layer(condition)
        attended = self.self_attention(x, text, rotary, keys, attend)
        x = (x.float() + self.self_attn_post_norm(gate * attended.float())).to(x.dtype)
        out: Tensor = x.float() + self.mlp_post_norm(gate_mlp * self.mlp(x).float())
        return out.to(x.dtype)
