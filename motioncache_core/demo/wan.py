"""A small video diffusion transformer with Wan 2.1's parameter names and block hooks.

The module exists so that the engine can be shown, tested and measured without ComfyUI and without
a download. Its state dict loads into ComfyUI's own `WanModel` unchanged, and it honours the same
hooks, so one adapter serves both:

* `transformer_options["patches_replace"]["dit"][("double_block", i)]`
* `transformer_options["optimized_attention_override"]`
* `transformer_options["block_index"]`

Of ComfyUI's `rope_options` it knows `shift_t`, the temporal position of the first frame.

Architecture: Wan 2.1 technical report (arXiv 2503.20314); the code is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention, TransformerOptions, rotary_table, spread, timestep_features


class Block(nn.Module):
    """One transformer block: modulated self-attention, cross-attention, modulated feed-forward."""

    def __init__(self, dim: int, ffn_dim: int, heads: int, image: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.self_attn = Attention(dim, heads)
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.cross_attn = Attention(dim, heads, image)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.ffn = nn.Sequential(
            nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim)
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(
        self,
        x: Tensor,
        e: Tensor,
        freqs: Tensor,
        context: Tensor,
        context_img_len: int | None = None,
        transformer_options: TransformerOptions | None = None,
    ) -> Tensor:
        """x `(B, N, C)`, e `(B, T, 6, C)` with T in {1, frames, N}, context `(B, M, C)`."""
        options = {} if transformer_options is None else transformer_options
        n = x.shape[1]
        m = [spread(row, n) for row in (self.modulation.to(x.dtype).unsqueeze(0) + e).unbind(2)]
        y = self.self_attn.self_attention(
            torch.addcmul(m[0], self.norm1(x), 1 + m[1]), freqs, options
        )
        x = torch.addcmul(x, y, m[2])
        x = x + self.cross_attn.cross_attention(
            self.norm3(x), context, context_img_len or 0, options
        )
        y = self.ffn(torch.addcmul(m[3], self.norm2(x), 1 + m[4]))
        return torch.addcmul(x, y, m[5])


class Head(nn.Module):
    """Modulated projection from tokens to patches."""

    def __init__(self, dim: int, out_dim: int, patch_size: tuple[int, int, int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.head = nn.Linear(dim, out_dim * math.prod(patch_size))
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        rows = (self.modulation.to(x.dtype).unsqueeze(0) + e.unsqueeze(2)).unbind(2)
        shift, scale = (spread(row, x.shape[1]) for row in rows)
        out: Tensor = self.head(torch.addcmul(shift, self.norm(x), 1 + scale))
        return out


class ImageEmbedding(nn.Module):
    """Projects CLIP image features `(B, 257, 1280)` to context tokens `(B, 257, C)`."""

    def __init__(self, dim: int, clip_dim: int = 1280) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.LayerNorm(clip_dim),
            nn.Linear(clip_dim, clip_dim),
            nn.GELU(),
            nn.Linear(clip_dim, dim),
            nn.LayerNorm(dim),
        )

    def forward(self, clip_fea: Tensor) -> Tensor:
        out: Tensor = self.proj(clip_fea)
        return out


class DemoWan(nn.Module):
    """Wan 2.1's diffusion transformer, text-to-video or image-to-video.

    Args:
        dim: width C, a multiple of 128 (ComfyUI derives the heads as `dim // 128`).
        model_type: "t2v", or "i2v" (adds CLIP image tokens to the cross-attention).
    """

    def __init__(
        self,
        dim: int = 128,
        ffn_dim: int = 512,
        num_layers: int = 4,
        num_heads: int | None = None,
        in_dim: int = 16,
        out_dim: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        model_type: str = "t2v",
    ) -> None:
        super().__init__()
        if model_type not in ("t2v", "i2v"):
            raise ValueError(f"model_type is {model_type!r}; allowed are 't2v' and 'i2v'")
        heads = num_heads or max(dim // 128, 1)
        if dim % heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {heads}")
        self.model_type, self.patch_size = model_type, patch_size
        self.dim, self.num_heads, self.in_dim, self.out_dim = dim, heads, in_dim, out_dim
        self.freq_dim = freq_dim
        self.patch_embedding = nn.Conv3d(in_dim, dim, patch_size, stride=patch_size)
        self.text_embedding = nn.Sequential(
            nn.Linear(text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(
            Block(dim, ffn_dim, heads, model_type == "i2v") for _ in range(num_layers)
        )
        self.head = Head(dim, out_dim, patch_size)
        self.img_emb = ImageEmbedding(dim) if model_type == "i2v" else None

    @classmethod
    def from_state_dict(cls, sd: Mapping[str, Tensor]) -> DemoWan:
        """Build the model whose sizes the state dict tells, and load it (strict)."""
        dim, in_dim, *patch = sd["patch_embedding.weight"].shape
        layers = 1 + max(int(key.split(".")[1]) for key in sd if key.startswith("blocks."))
        model = cls(
            dim=dim,
            ffn_dim=sd["blocks.0.ffn.0.weight"].shape[0],
            num_layers=layers,
            in_dim=in_dim,
            out_dim=sd["head.head.weight"].shape[0] // math.prod(patch),
            text_dim=sd["text_embedding.0.weight"].shape[1],
            freq_dim=sd["time_embedding.0.weight"].shape[1],
            patch_size=(patch[0], patch[1], patch[2]),
            model_type="i2v" if "img_emb.proj.0.weight" in sd else "t2v",
        )
        model.load_state_dict(sd)
        return model

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        clip_fea: Tensor | None = None,
        time_dim_concat: Tensor | None = None,
        transformer_options: TransformerOptions | None = None,
        **kwargs: object,
    ) -> Tensor:
        """Velocity `noise - x0`.

        Args:
            x: latents `(B, in_dim, F, H, W)`; H and W are padded circularly to the patch size.
            timestep: `(B,)` or, one per latent frame, `(B, F)`; 0 (clean) to 1000 (noise).
            context: text states `(B, M, text_dim)`.
            clip_fea: CLIP image features `(B, 257, 1280)`, image-to-video only.

        Returns:
            `(B, out_dim, F, H, W)` in x's dtype.
        """
        if time_dim_concat is not None:
            raise ValueError("DemoWan takes no time_dim_concat; use ComfyUI's WanModel for it")
        options = {} if transformer_options is None else transformer_options
        height, width = x.shape[-2:]
        pad_h, pad_w = -height % self.patch_size[1], -width % self.patch_size[2]
        if pad_h or pad_w:
            x = F.pad(x, (0, pad_w, 0, pad_h, 0, 0), mode="circular")
        tokens = self.patch_embedding(x)
        grid = tuple(tokens.shape[2:])
        options["grid_sizes"] = tokens.shape[2:]
        tokens = tokens.flatten(2).transpose(1, 2)

        features = timestep_features(timestep.flatten(), self.freq_dim).to(x.dtype)
        e = self.time_embedding(features).reshape(timestep.shape[0], -1, self.dim)
        e0 = self.time_projection(e).unflatten(2, (6, self.dim))

        states = self.text_embedding(context)
        image_tokens = None
        if clip_fea is not None and self.img_emb is not None:
            states = torch.cat((self.img_emb(clip_fea), states), dim=1)
            image_tokens = clip_fea.shape[-2]

        rope = options.get("rope_options") or {}
        first = float(rope.get("shift_t", 0.0))
        table = rotary_table(grid, self.dim // self.num_heads, x.device, first)
        tokens = self.run_blocks(tokens, e0, table, states, image_tokens, options)
        return self.unpatchify(self.head(tokens, e), grid)[..., :height, :width]

    def run_blocks(
        self,
        x: Tensor,
        e: Tensor,
        table: Tensor,
        context: Tensor,
        image_tokens: int | None,
        options: TransformerOptions,
    ) -> Tensor:
        """The block stack, each block through its replacement when there is one."""
        replace = options.get("patches_replace", {}).get("dit", {})
        options["total_blocks"], options["block_type"] = len(self.blocks), "double"

        for i, block in enumerate(self.blocks):
            options["block_index"] = i

            def original(args: dict[str, Any], block: nn.Module = block) -> dict[str, Tensor]:
                out = block(
                    args["img"],
                    e=args["vec"],
                    freqs=args["pe"],
                    context=args["txt"],
                    context_img_len=image_tokens,
                    transformer_options=args["transformer_options"],
                )
                return {"img": out}

            call = {"img": x, "txt": context, "vec": e, "pe": table, "transformer_options": options}
            patch = replace.get(("double_block", i))
            out = original(call) if patch is None else patch(call, {"original_block": original})
            x = out["img"]
        return x

    def unpatchify(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Patches `(B, F*h*w, p*out_dim)` to latents `(B, out_dim, F, H, W)`."""
        p = self.patch_size
        x = x.reshape(x.shape[0], *grid, *p, self.out_dim)
        x = x.permute(0, 7, 1, 4, 2, 5, 3, 6)
        return x.reshape(x.shape[0], self.out_dim, *(n * q for n, q in zip(grid, p, strict=True)))
