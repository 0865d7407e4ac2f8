"""A network whose answers can be worked out by hand, with Wan's hooks.

A token is the `C` channels of one latent position; there is no patch embedding and no head. Each
block doubles its tokens; attention, modulation and rotary table can be switched on, and then add
whole numbers that tell where they came from:

    y = 2 x + shift + place + attention * (sum of the values of all tokens)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def adding_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: object) -> Tensor:
    """Every query gets the sum of all values."""
    return v.sum(dim=1, keepdim=True).expand_as(q).clone()


class DoublingBlock(nn.Module):
    """`calls` lists how many rows each call had."""

    def __init__(self, dim: int, attention: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.Linear(dim, dim))
        self.attention = attention
        self.calls: list[int] = []

    def forward(self, x: Tensor, vec: Tensor, pe: Tensor, options: dict[str, Any]) -> Tensor:
        rows = x.shape[1]
        self.calls.append(rows)
        shift = vec[..., 0, :]
        if vec.ndim == 3:
            shift = shift[:, None]
        elif shift.shape[1] not in (1, rows):
            shift = shift.repeat_interleave(rows // shift.shape[1], dim=1)
        y = 2 * x + shift + pe.reshape(pe.shape[0], rows, 1)
        if self.attention:
            # self-attention, then a text attention that must be left alone
            y = y + self.attention * self.attend(x, x, options)
            y = y + 0 * self.attend(x, torch.zeros_like(x[:, :1]), options)
        return y

    def attend(self, x: Tensor, source: Tensor, options: dict[str, Any]) -> Tensor:
        k, v = source.clone(), source.clone()
        override: Callable[..., Tensor] | None = options.get("optimized_attention_override")
        if override is None:
            return adding_attention(x, k, v, heads=1)
        return override(adding_attention, x, k, v, heads=1, transformer_options=options)


class WanModel(nn.Module):
    """See the module's first lines.

    Args:
        attention: weight of the summed values; 0 makes tokens independent.
        timed: add the timestep of a token's frame in every block.
        placed: add the number of a token's row in every block.
        old_modulation: hand over the modulation as `(B, 6, C)`.
    """

    def __init__(
        self,
        dim: int = 2,
        blocks: int = 2,
        attention: int = 0,
        timed: bool = False,
        placed: bool = False,
        old_modulation: bool = False,
    ) -> None:
        super().__init__()
        self.dim = self.in_dim = self.out_dim = dim
        self.patch_size, self.model_type, self.num_heads = (1, 1, 1), "t2v", 1
        self.timed, self.placed, self.old_modulation = timed, placed, old_modulation
        self.blocks = nn.ModuleList(DoublingBlock(dim, attention) for _ in range(blocks))

    @property
    def calls(self) -> list[int]:
        """Rows of each block call, in the order of blocks."""
        return [rows for block in self.blocks for rows in block.calls]

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: object,
    ) -> Tensor:
        options = {} if transformer_options is None else transformer_options
        tokens = x.flatten(2).transpose(1, 2)
        t = timestep.reshape(x.shape[0], -1, 1, 1) * float(self.timed)
        vec = t.expand(-1, -1, 6, self.dim)
        if self.old_modulation:
            vec = vec[:, 0]
        numbers = torch.arange(tokens.shape[1], dtype=x.dtype) * float(self.placed)
        pe = numbers.reshape(1, -1, 1, 1, 1, 1)
        replace = options.get("patches_replace", {}).get("dit", {})
        for i, block in enumerate(self.blocks):
            options["block_index"] = i

            def original(args: dict[str, Any], block: nn.Module = block) -> dict[str, Tensor]:
                return {"img": block(args["img"], args["vec"], args["pe"], options)}

            call = {"img": tokens, "vec": vec, "pe": pe, "transformer_options": options}
            patch = replace.get(("double_block", i))
            done = original(call) if patch is None else patch(call, {"original_block": original})
            tokens = done["img"]
        return tokens.transpose(1, 2).reshape(x.shape)


# the adapter asks for nothing but the host class's qualified name
WanModel.__module__, WanModel.__qualname__ = "comfy.ldm.wan.model", "WanModel"
DoublingNet = WanModel


def class_named(module: str, name: str) -> type:
    """A subclass of the toy that carries another class's qualified name."""
    return type(name, (WanModel,), {"__module__": module, "__qualname__": name})
