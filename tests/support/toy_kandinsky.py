"""A small network with the hooks of Kandinsky 5: self-attention over the video, then attention to
text. The function that it hands to replacements cannot run a block, as the host's cannot."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from motioncache_pack.tests.support.toy_hunyuan import attention, rotated, table
from torch import Tensor, nn

HEADS, WIDTH, CHANNELS, TEXT = 2, 16, 4, 12


class Block(nn.Module):
    """Two attentions, a gate by the timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.q, self.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.self_attention = SimpleNamespace(num_heads=HEADS)
        self.feed_forward = SimpleNamespace(in_layer=nn.Linear(WIDTH, 2 * WIDTH))

    def forward(
        self,
        visual_embed: Tensor,
        text_embed: Tensor,
        time_embed: Tensor,
        freqs: Tensor,
        transformer_options: Mapping[str, Any],
    ) -> Tensor:
        x, gate = visual_embed, 1 + time_embed[:, None]
        q, k, v = self.qkv(x * gate).unflatten(2, (3, HEADS, -1)).unbind(2)
        # rows before heads in memory
        turned = freqs.movedim(2, 1)
        q, k = rotated(q.transpose(1, 2), turned), rotated(k.transpose(1, 2), turned)
        x = x + gate * self.out(attend(q, k, v.transpose(1, 2), transformer_options)).tanh()
        k, v = self.kv(text_embed).unflatten(2, (2, HEADS, -1)).permute(2, 0, 3, 1, 4)
        q = self.q(x).unflatten(2, (HEADS, -1)).transpose(1, 2)
        return x + attend(q, k, v, transformer_options)


def attend(q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any]) -> Tensor:
    override = options.get("optimized_attention_override")
    if override is None:
        return attention(q, k, v, heads=HEADS)
    return override(attention, q, k, v, heads=HEADS)


class Kandinsky5(nn.Module):
    """Patches of 1 x 2 x 2. The host's class, by its name."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.model_dim, self.in_visual_dim, self.patch_size = WIDTH, CHANNELS, (1, 2, 2)
        self.visual_embeddings = nn.Conv3d(CHANNELS, WIDTH, (1, 2, 2), (1, 2, 2))
        self.text_embeddings, self.time_embeddings = nn.Linear(TEXT, WIDTH), nn.Linear(1, WIDTH)
        self.visual_transformer_blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.head = nn.Linear(WIDTH, CHANNELS * 4)
        self.eval()

    @torch.no_grad()
    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        time_dim_replace: Tensor | None = None,
        transformer_options: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """`x` `(B, 4, F, H, W)`, `context` `(B, T, 12)`; the first frames are `time_dim_replace`
        where it is given."""
        options, x = dict(transformer_options or {}), x.clone()
        if time_dim_replace is not None:
            x[:, :, : time_dim_replace.shape[2]] = time_dim_replace
        text, time = self.text_embeddings(context), self.time_embeddings(timestep[:, None] / 1000)
        img = self.visual_embeddings(x)
        grid, img = img.shape[2:], img.flatten(2).transpose(1, 2).contiguous()
        places = torch.arange(img.shape[1]).float()[None, :, None]
        freqs = table(places, WIDTH // HEADS).movedim(1, 2)
        patches = options.get("patches_replace", {}).get("dit", {})
        for i, block in enumerate(self.visual_transformer_blocks):

            def wrapped(args: dict[str, Any], block: nn.Module = block) -> Any:
                return block(**args)

            if ("double_block", i) in patches:
                args = {"x": img, "context": text, "time_embed": time, "freqs": freqs,
                        "transformer_options": options}  # fmt: skip
                img = patches["double_block", i](args, {"original_block": wrapped})["x"]
            else:
                img = block(img, text, time, freqs=freqs, transformer_options=options)
        out = self.head(img).unflatten(1, grid).unflatten(4, (CHANNELS, 2, 2))
        return torch.einsum("bfhwcpq->bcfhpwq", out).reshape(x.shape)


Kandinsky5.__module__ = "comfy.ldm.kandinsky5.model"
