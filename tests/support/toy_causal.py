"""A small network that keeps keys and values of its own from call to call, under the qualified name
of ComfyUI's, and the way in which its sampler calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from motioncache_pack.motioncache_core.demo.attention import (
    rotary_table,
    rotate,
    scaled_dot_product,
    spread,
    timestep_features,
)
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.tests.core.small_wan import TEXT_DIM
from torch import Tensor, nn

LAYERS, FRAMES, SIDE, DIM, HEADS = 3, 3, 8, 256, 2
ROWS = FRAMES * SIDE * SIDE // 4


class CausalBlock(nn.Module):
    """`stale` are rows whose keys and values stay as they were, for the oracle."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o, self.said = nn.Linear(DIM, 3 * DIM), *(nn.Linear(DIM, DIM),) * 2
        self.ffn = nn.Sequential(nn.Linear(DIM, 192), nn.GELU(), nn.Linear(192, DIM))
        self.modulation = nn.Parameter(torch.randn(1, 6, DIM) / DIM**0.5)
        self.stale: Sequence[int] = ()

    def forward(
        self,
        x: Tensor,
        e: Tensor,
        freqs: Tensor,
        context: Tensor,
        context_img_len: int | None = None,
        kv_cache: dict[str, Any] | None = None,
        crossattn_cache: dict[str, Any] | None = None,
    ) -> Tensor:
        """As ComfyUI's: what is written behind `end` is attended to with all in front of it."""
        assert kv_cache is not None and crossattn_cache == {}
        rows, start = x.shape[1], kv_cache["end"]
        m = [spread(row, rows) for row in (self.modulation[:, None] + e).unbind(2)]
        normed = torch.addcmul(m[0], F.layer_norm(x, (DIM,)), 1 + m[1])
        q, k, v = (t.unflatten(2, (HEADS, -1)) for t in self.qkv(normed).chunk(3, dim=2))
        q, k, end = rotate(q, freqs), rotate(k, freqs), start + rows
        fresh = [row for row in range(rows) if row not in self.stale]
        for name, new in (("k", k), ("v", v)):
            kv_cache[name][:, start:end][:, fresh] = new[:, fresh]
        kv_cache["end"] = end
        seen = (kv_cache[name][:, :end].flatten(2) for name in ("k", "v"))
        x = x + m[2] * self.o(scaled_dot_product(q.flatten(2), *seen, heads=HEADS))
        x = x + self.said(context).mean(dim=1, keepdim=True)
        return x + m[5] * self.ffn(torch.addcmul(m[3], F.layer_norm(x, (DIM,)), 1 + m[4]))


class OwnKeys(DemoWan):
    """Gives clean video, as the model around the network does."""

    def __init__(self) -> None:
        torch.manual_seed(11)
        super().__init__(DIM, 192, LAYERS, HEADS, text_dim=TEXT_DIM, freq_dim=64)
        self.blocks = nn.ModuleList(CausalBlock() for _ in range(LAYERS))

    def forward(self, x: Tensor, sigma: Tensor, context: Tensor, state: Any) -> Tensor:  # type: ignore[override]
        """One call for a block of frames.

        Args:
            x: `(B, 16, F, 8, 8)`.
            sigma: noise level `(B,)`.
            state: first frame, and the keys and values of each layer.
        """
        tokens = self.patch_embedding(x)
        grid = tuple(tokens.shape[2:])
        times = (1000 * sigma)[:, None].expand(-1, x.shape[2])
        e = self.time_embedding(timestep_features(times.flatten(), self.freq_dim))
        e = e.reshape(len(x), -1, self.dim)
        e0 = self.time_projection(e).unflatten(2, (6, self.dim))
        table = rotary_table(grid, DIM // HEADS, x.device, state["start_frame"])
        tokens, said = tokens.flatten(2).transpose(1, 2), self.text_embedding(context)
        for block, cache in zip(self.blocks, state["kv_caches"], strict=True):
            tokens = block(
                tokens, e=e0, freqs=table, context=said, context_img_len=None, kv_cache=cache,
                crossattn_cache={},
            )  # fmt: skip
        velocity = self.unpatchify(self.head(tokens, e), grid)
        return x - sigma.reshape(-1, 1, 1, 1, 1) * velocity


# an adapter goes by the host class's qualified name
OwnKeys.__module__, OwnKeys.__qualname__ = "comfy.ldm.wan.ar_model", "CausalWanModel"


def new_state(blocks: int = 2, batch: int = 1) -> dict[str, Any]:
    """Nothing is kept yet; what has not been written would be seen."""
    shape = batch, blocks * ROWS, HEADS, DIM // HEADS
    caches = [
        {"k": torch.full(shape, torch.nan), "v": torch.full(shape, torch.nan), "end": 0}
        for _ in range(LAYERS)
    ]
    return {"start_frame": 0, "kv_caches": caches}


def take_back(state: dict[str, Any]) -> None:
    """What the sampler does in front of the next step of the same frames."""
    for cache in state["kv_caches"]:
        cache["end"] -= ROWS


def next_block(state: dict[str, Any]) -> dict[str, Any]:
    """The same keys and values for the frames that follow."""
    return {**state, "start_frame": state["start_frame"] + FRAMES}
