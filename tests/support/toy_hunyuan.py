"""A small network with the hooks of HunyuanVideo: two runs of blocks that write into their tokens,
text in front of the video in every attention, and a first frame with a timestep of its own.

As in the host, ranges of rows say which timestep is whose; the single blocks count them from the
first row of text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS, WIDTH, CHANNELS, TEXT = 2, 16, 4, 12

Ranges = Sequence[tuple[int, int | None, int]] | None


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Of `(B, H, S, D)` tensors; returns `(B, S, H * D)`."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def rotated(x: Tensor, table: Tensor) -> Tensor:
    """`(B, H, S, D)` by a table `(B, 1, S, D / 2, 2, 2)`."""
    pairs = x.unflatten(-1, (-1, 1, 2))
    return (table * pairs).sum(-1).flatten(-2)


def table(positions: Tensor, dim: int) -> Tensor:
    """Rotary table `(B, 1, S, dim / 2, 2, 2)` of positions `(B, S, axes)`."""
    waves = torch.linspace(0.1, 1.0, dim // 2)
    angles = (positions.sum(-1)[..., None] * waves)[:, None]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((cos, -sin, sin, cos), dim=-1).unflatten(-1, (2, 2))


def scaled(x: Tensor, by: Tensor, ranges: Ranges) -> Tensor:
    """Tokens `(B, S, C)` times one plus `by` `(B, T, C)`, in place where ranges are given."""
    if ranges is None:
        return x * (1 + by)
    for start, stop, which in ranges:
        x[:, start:stop] *= 1 + by[:, which : which + 1]
    return x


def attend(qkv: Tensor, pe: Tensor, mask: Tensor | None, options: Mapping[str, Any]) -> Tensor:
    q, k, v = qkv.unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    q, k = rotated(q, pe), rotated(k, pe)
    override = options.get("optimized_attention_override")
    if override is None:
        return attention(q, k, v, HEADS, mask=mask)
    return override(attention, q, k, v, HEADS, mask=mask)


class DoubleBlock(nn.Module):
    """Text and video with weights of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.img_qkv, self.txt_qkv = (nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.img_out, self.txt_out = (nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, args: Mapping[str, Any]) -> dict[str, Tensor]:
        img, txt, vec = args["img"], args["txt"], args["vec"]
        vec = vec[:, None] if vec.ndim == 2 else vec
        video = self.img_qkv(scaled(img.clone(), vec, args["modulation_dims_img"]))
        words = self.txt_qkv(scaled(txt.clone(), vec, args["modulation_dims_txt"]))
        options = args["transformer_options"]
        qkv = torch.cat((words, video), dim=1)
        out = attend(qkv, args["pe"], args["attention_mask"], options)
        rows = txt.shape[1]
        img += scaled(self.img_out(out[:, rows:]).tanh(), vec, args["modulation_dims_img"])
        txt += self.txt_out(out[:, :rows]).tanh()
        return {"img": img, "txt": txt}


class SingleBlock(nn.Module):
    """One stream, text first."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, args: Mapping[str, Any]) -> dict[str, Tensor]:
        x, vec, ranges = args["img"], args["vec"], args["modulation_dims"]
        vec = vec[:, None] if vec.ndim == 2 else vec
        qkv = self.qkv(scaled(x.clone(), vec, ranges))
        out = attend(qkv, args["pe"], args["attention_mask"], args["transformer_options"])
        x += scaled(self.out(out).tanh(), vec, ranges)
        return {"img": x}


class HunyuanVideo(nn.Module):
    """Patches of 1 x 2 x 2. The host's class, by its name.

    Args:
        double, single: blocks of each run.
    """

    def __init__(self, double: int = 2, single: int = 2) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.patch_size, self.hidden_size, self.num_heads = [1, 2, 2], WIDTH, HEADS
        self.in_channels = self.out_channels = CHANNELS
        self.img_in = nn.Conv3d(CHANNELS, WIDTH, (1, 2, 2), (1, 2, 2))
        self.txt_in, self.time_in = nn.Linear(TEXT, WIDTH), nn.Linear(1, WIDTH)
        self.double_blocks = nn.ModuleList(DoubleBlock() for _ in range(double))
        self.single_blocks = nn.ModuleList(SingleBlock() for _ in range(single))
        self.head = nn.Linear(WIDTH, CHANNELS * 4)
        self.eval()

    @torch.no_grad()
    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        attention_mask: Tensor | None = None,
        guiding_frame_index: Tensor | None = None,
        ref_latent: Tensor | None = None,
        control: Tensor | None = None,
        transformer_options: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """`x` and `ref_latent` `(B, 4, F, H, W)`, `context` `(B, T, 12)`, `attention_mask` of
        whole numbers `(1, T)`, 0 = padding; `control` is added to the tokens between blocks."""
        options = dict(transformer_options or {})
        img, grid = self._tokens(x)
        txt, vec = self.txt_in(context), self.time_in(timestep[:, None] / 1000)
        places = torch.arange(img.shape[1]).float()
        reference = 0
        if ref_latent is not None:
            kept, _ = self._tokens(ref_latent)
            reference = kept.shape[1]
            img = torch.cat((kept, img), dim=1)
            places = torch.cat((-1 - torch.arange(reference), places))
        ranges, words = None, None
        if guiding_frame_index is not None:
            own = self.time_in(guiding_frame_index[:, None]).expand_as(vec)
            vec = torch.stack((own, vec), dim=1)
            frame = grid[1] * grid[2]
            ranges, words = [(0, frame, 0), (frame, None, 1)], [(0, None, 1)]
        rows, length = txt.shape[1], img.shape[1]
        positions = torch.cat((torch.zeros(rows), places))[None, :, None]
        shared = {
            "vec": vec,
            "pe": table(positions, WIDTH // HEADS),
            "attention_mask": None,
            "transformer_options": options,
        }
        if attention_mask is not None:
            hidden = (attention_mask - 1).float() * torch.finfo(torch.float32).max
            shared["attention_mask"] = F.pad(hidden, (0, length))[:, None]
        patches = options.get("patches_replace", {}).get("dit", {})

        def run(key: tuple[str, int], block: nn.Module, args: dict[str, Any]) -> dict[str, Any]:
            if key not in patches:
                return block(args)
            return patches[key](args, {"original_block": block})

        for i, block in enumerate(self.double_blocks):
            args = {"modulation_dims_img": ranges, "modulation_dims_txt": words, **shared}
            out = run(("double_block", i), block, {"img": img, "txt": txt, **args})
            img, txt = out["img"], out["txt"]
            if control is not None:
                img += control
        img = torch.cat((txt, img), dim=1)
        options["img_slice"] = [rows, img.shape[1]]
        for i, block in enumerate(self.single_blocks):
            args = {"img": img, "modulation_dims": ranges, **shared}
            img = run(("single_block", i), block, args)["img"]
        img = img[:, rows : rows + length][:, reference:]
        vec = vec[:, None] if vec.ndim == 2 else vec
        out = self.head(scaled(img, vec, ranges)).unflatten(1, grid).unflatten(4, (CHANNELS, 2, 2))
        return torch.einsum("bfhwcpq->bcfhpwq", out).reshape(x.shape)

    def _tokens(self, latent: Tensor) -> tuple[Tensor, Sequence[int]]:
        img = self.img_in(latent)
        # a transposed view, as the host's
        return img.flatten(2).transpose(1, 2), img.shape[2:]


HunyuanVideo.__module__ = "comfy.ldm.hunyuan_video.model"
