"""The network in bfloat16 on a processor, where torch's own attention and rotation are slow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from .. import attention
from ..wan import DemoWan


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """The network's own `rotate` to the bit, but its gradient takes half the time."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    turn = torch.complex(table[..., 0, 0], table[..., 1, 0])
    turned: Tensor = torch.view_as_real(pairs * turn)
    return turned.flatten(-2).type_as(x)


def multiplied(_: object, q: Tensor, k: Tensor, v: Tensor, heads: int, **__: object) -> Tensor:
    """Attention over `(B, N, heads * d)` as two products."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    out: Tensor = (weights.softmax(-1) @ v).transpose(1, 2).flatten(2)
    return out


def velocity(
    model: DemoWan, x: Tensor, timestep: Tensor, text: Tensor, options: dict[str, Any] | None = None
) -> Tensor:
    """The network's answer in fp32, its products in bfloat16, with gradients of the fp32 weights.

    Args:
        options: `transformer_options`; without an override of attention, `multiplied` is taken.
    """
    attention.rotate = rotate
    weights: dict[str, Any] = {k: p.bfloat16() for k, p in model.named_parameters()}
    told = {"optimized_attention_override": multiplied} | (options or {})
    given = x.bfloat16(), timestep, text.bfloat16()
    out: Tensor = functional_call(model, weights, given, {"transformer_options": told})
    return out.float()
