"""MAGI-1's diffusion transformer, evaluated for the frames of one chunk at a time.

Architecture: MAGI-1 (arXiv 2505.13211); the modules bear the names of the published checkpoints,
the code is ours. The published model evaluates all chunks in flight together; one after the
other, oldest first, each against the stored keys of those before it, is the same computation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.host_transfer import upload
from . import operations as plain
from .blocks import Attend, Block
from .config import MagiConfig
from .embedders import Rotary, TextEmbedder, TimeEmbedder
from .operations import CenteredNorm

PATCH = 2
# rows of the null caption that stand for "no text"
NULL_ROWS = 50
# the rows of the null caption behind the condition vector: with text, and without
_WITH_TEXT, _WITHOUT_TEXT = -2, -1

# number of the block, queries (B, N, heads * D), fresh keys and values (B, N, groups * D) of the
# active rows -> the keys and values that these rows may attend to
BlockKeys = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def attend_alone(block: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Only the rows themselves are seen, and nothing is kept."""
    return k, v


def plain_attention(config: MagiConfig) -> Attend:
    """torch's attention with grouped heads."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = [t.unflatten(-1, (-1, config.head_width)).transpose(1, 2) for t in (q, k, v)]
        share = config.heads // config.groups
        keys, values = (t.repeat_interleave(share, dim=1) for t in heads[1:])
        out = F.scaled_dot_product_attention(heads[0], keys, values)
        return out.transpose(1, 2).flatten(2)

    return attend


class _Blocks(nn.Module):
    def __init__(
        self,
        config: MagiConfig,
        operations: Any,
        published: bool,
        stored: torch.dtype,
        compute: torch.dtype,
        device: torch.device | None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Block(config, operations, published, stored, compute, device)
            for _ in range(config.blocks)
        )
        self.final_layernorm = CenteredNorm(config.width, config.norm_eps, torch.float32, device)


class _FinalLinear(nn.Module):
    def __init__(self, config: MagiConfig, operations: Any, **where: Any) -> None:
        super().__init__()
        channels = config.channels * (2 if config.doubled else 1)
        self.linear = operations.Linear(config.width, PATCH**2 * channels, bias=False, **where)


class MagiNetwork(nn.Module):
    """The network on layers that are given to it.

    Args:
        operations: has `Linear`, `Conv3d` and `LayerNorm`, whose weights are cast to the dtype
            of their input; the host's, so that its patches and storage formats keep working.
        dtype: that weights of the blocks' linear layers are stored in.
        published: the attention's projection in fp32 too, as published; else as the blocks.
        compute_dtype: of the blocks; None is `dtype`. Embedders, outer norms and the head compute
            in fp32.
    """

    def __init__(
        self,
        config: MagiConfig,
        operations: Any = plain,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        published: bool = True,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype
        self.compute_dtype = compute_dtype or dtype
        exact = {"dtype": torch.float32, "device": device}
        channels = config.channels * (2 if config.doubled else 1)
        size = (1, PATCH, PATCH)
        self.x_embedder = operations.Conv3d(
            channels, config.width, kernel_size=size, stride=size, bias=False, **exact
        )
        self.t_embedder = TimeEmbedder(config, operations, self.compute_dtype, **exact)
        self.y_embedder = TextEmbedder(config, operations, **exact)
        self.rope = Rotary(config, **exact)
        self.videodit_blocks = _Blocks(
            config, operations, published, dtype, self.compute_dtype, device
        )
        self.final_linear = _FinalLinear(config, operations, **exact)

    def null_text(self) -> Tensor:
        """Rows `(1, n, text_width)` that stand for no text."""
        rows: Tensor = self.y_embedder.null_caption_embedding[None, :NULL_ROWS]
        return rows

    def text(self, rows: Tensor) -> Tensor:
        """Rows of text `(B, n, text_width)`, all of them valid, as the blocks take them."""
        out: Tensor = self.y_embedder.y_proj_xattn(rows.float()).to(self.compute_dtype)
        return out

    def condition(
        self, time: float, with_text: bool, step_size: float | None, device: torch.device
    ) -> Tensor:
        """What the blocks are told of a chunk's noise level, `(1, condition_width)`.

        Args:
            time: 0 is noise, 1 is clean.
            with_text: which row of the null caption goes into it; the distilled network has the
                one with text always.
            step_size: the distilled network's second number, see `schedule.step_size`.
        """
        numbers = [time] if step_size is None else [time, step_size]
        told = self.t_embedder(upload(numbers, device))
        row = self.y_embedder.null_caption_embedding[_WITH_TEXT if with_text else _WITHOUT_TEXT]
        text = self.y_embedder.y_proj_adaln(row[None].to(device=device, dtype=torch.float32))
        out: Tensor = (told.sum(dim=0, keepdim=True) + text).to(self.compute_dtype)
        return out

    def embed(self, x: Tensor) -> Tensor:
        """Latents `(B, channels, f, H, W)` as tokens `(B, N, width)`."""
        x = x.float() * self.config.latent_scale
        if self.config.doubled:
            x = torch.cat((x, x), dim=1)
        tokens: Tensor = self.x_embedder(x).flatten(2).transpose(1, 2)
        return tokens.contiguous().to(self.compute_dtype)

    def head(self, tokens: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Tokens `(B, N, width)` as the velocity `(B, channels, f, H, W)` fp32."""
        frames, lines, columns = grid
        h = self.final_linear.linear(self.videodit_blocks.final_layernorm(tokens.float()))
        h = h.unflatten(-1, (PATCH, PATCH, -1)).unflatten(1, (frames, lines, columns))
        # (B, f, h, w, p, p, C) -> (B, C, f, h, p, w, p)
        h = h.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)
        out: Tensor = h[:, : self.config.channels] / self.config.latent_scale
        return out

    def chunk(
        self,
        x: Tensor,
        condition: Tensor,
        text: Tensor,
        first: int,
        keys: BlockKeys,
        attend: Attend,
        rows: Tensor | None = None,
    ) -> Tensor:
        """The velocity, from noise to clean, of one chunk's latents.

        Args:
            x: `(B, channels, f, H, W)`, H and W even and at least 4.
            condition: of `condition`.
            text: of `text`.
            first: position of the first frame.
            keys: keeps a block's fresh keys and values and says what may be attended to.
            attend: attention over heads that lie side by side in the channels.
            rows: tokens `(n,)` int64 to compute; the velocity of the others means nothing. None
                computes all.

        Returns:
            `(B, channels, f, H, W)` fp32.
        """
        grid = (x.shape[2], x.shape[3] // PATCH, x.shape[4] // PATCH)
        tokens = self.embed(x)
        rotary = self.rope(first, grid, x.device)
        h = tokens if rows is None else tokens[:, rows]
        if rows is not None:
            rotary = (rotary[0][rows], rotary[1][rows])
        for number, block in enumerate(self.videodit_blocks.layers):

            def own(q: Tensor, k: Tensor, v: Tensor, number: int = number) -> tuple[Tensor, Tensor]:
                return keys(number, q, k, v)

            h = block(h, condition, text, rotary, own, attend)
        if rows is not None:
            h = tokens.index_copy(1, rows, h)
        return self.head(h, grid)
