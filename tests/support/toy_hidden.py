"""Small networks without a hook for their blocks, under the qualified names of ComfyUI's: tokens as
a grid of frames, rows and columns, or text and video as two arguments."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from motioncache_pack.motioncache_core.demo.attention import rotary_table, rotate
from torch import Tensor, nn

DIM, HEADS, TEXT, LAYERS = 128, 2, 24, 3


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
    """Of `(B, S, H * D)` tensors, or of `(B, H, S, D)`; returns `(B, S, H * D)`."""
    if q.ndim == 3:
        q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
    override = options.get("optimized_attention_override")
    if override is None:
        return attention(q, k, v, HEADS)
    out: Tensor = override(attention, q, k, v, HEADS, transformer_options=options)
    return out


def feed_forward() -> nn.Sequential:
    return nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))


class GridBlock(nn.Module):
    """As Cosmos-Predict2's."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o, self.said = nn.Linear(DIM, 3 * DIM), *(nn.Linear(DIM, DIM),) * 2
        self.mlp = feed_forward()
        # under a second name, not as a second layer
        vars(self.mlp)["layer1"] = self.mlp[0]

    def forward(
        self,
        x: Tensor,
        emb: Tensor,
        context: Tensor,
        rope_emb_L_1_1_D: Tensor,  # noqa: N803
        adaln_lora_B_T_3D: Tensor,  # noqa: N803
        extra_per_block_pos_emb: Tensor | None,
        transformer_options: dict[str, Any],
    ) -> Tensor:
        """x `(B, T, H, W, C)`, emb `(B, T or 1, C)`, text `(B, M, C)`."""
        grid = x.shape[1:4]
        tokens = (x + emb[:, :, None, None] + adaln_lora_B_T_3D[:, :, None, None]).flatten(1, 3)
        q, k, v = (t.unflatten(2, (HEADS, -1)) for t in self.qkv(tokens).chunk(3, dim=2))
        q, k = rotate(q, rope_emb_L_1_1_D), rotate(k, rope_emb_L_1_1_D)
        out = attend(*(t.transpose(1, 2) for t in (q, k, v)), transformer_options)
        x = x + self.o(out).unflatten(1, grid)
        read = attend(x.flatten(1, 3), context, context, transformer_options)
        x = x + self.said(read).unflatten(1, grid)
        return x + self.mlp(x)


class PairBlock(nn.Module):
    """As CogVideoX's."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.ff = feed_forward()
        self.ff_proj = self.ff[0]

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        transformer_options: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Text first; the tables `(L, d)` are added to queries and keys of the video."""
        words, both = encoder_hidden_states.shape[1], (encoder_hidden_states, hidden_states)
        x = torch.cat(both, dim=1)
        q, k, v = self.qkv(x + temb[:, None]).chunk(3, dim=2)
        if image_rotary_emb is not None:
            one, two = (F.pad(t.repeat(1, 2), (0, 0, words, 0)) for t in image_rotary_emb)
            q, k = q + one, k + two
        x = x + self.o(attend(q, k, v, transformer_options or {}))
        x = x + self.ff(x)
        return x[:, words:], x[:, :words]


class Network(nn.Module):
    """Patches of 1 x 2 x 2; gives clean latents, as the model around it does."""

    patch_temporal, patch_spatial, patch_size, patch_size_t = 1, 2, 2, None
    model_channels = dim = DIM
    num_heads = num_attention_heads = HEADS
    out_channels = in_channels = 16

    def __init__(self, block: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.embed = nn.Conv3d(16, DIM, (1, 2, 2), (1, 2, 2))
        self.text_in, self.time_in = nn.Linear(TEXT, DIM), nn.Linear(1, DIM)
        self.blocks = nn.ModuleList(block() for _ in range(LAYERS))
        self.head = nn.Linear(DIM, 64)

    def forward(self, x: Tensor, sigma: Tensor, text: Tensor, options: dict[str, Any]) -> Tensor:
        """sigma `(B,)`, or `(B, F)` for a time of each frame."""
        times = sigma[:, None] if sigma.ndim == 1 else sigma
        grid = self.embed(x)
        size, time, words = grid.shape[2:], self.time_in(times[..., None]), self.text_in(text)
        tokens = self.run(grid, time, words, options)
        video = self.head(tokens).unflatten(1, tuple(size)).unflatten(4, (16, 2, 2))
        video = torch.einsum("bfhwcpq->bcfhpwq", video).reshape(x.shape)
        return x - sigma.reshape(len(x), 1, -1, 1, 1) * video

    def run(self, grid: Tensor, time: Tensor, words: Tensor, options: dict[str, Any]) -> Tensor:
        raise NotImplementedError


class Grid(Network):
    """Blocks get the grid itself."""

    def __init__(self) -> None:
        super().__init__(GridBlock)

    def run(self, grid: Tensor, time: Tensor, words: Tensor, options: dict[str, Any]) -> Tensor:
        """Positional, but for the tables."""
        table = rotary_table(tuple(grid.shape[2:]), DIM // HEADS, grid.device)
        x = grid.movedim(1, 4)
        for block in self.blocks:
            x = block(
                x, time, words, rope_emb_L_1_1_D=table, adaln_lora_B_T_3D=0.5 * time,
                extra_per_block_pos_emb=None, transformer_options=options,
            )  # fmt: skip
        return x.flatten(1, 3)


class Pair(Network):
    """Text goes through the blocks, too."""

    def __init__(self) -> None:
        super().__init__(PairBlock)

    def run(self, grid: Tensor, time: Tensor, words: Tensor, options: dict[str, Any]) -> Tensor:
        """All by name."""
        x = grid.flatten(2).transpose(1, 2)
        places = torch.arange(x.shape[1])[:, None] * torch.linspace(0.05, 1.0, DIM // 2)
        for block in self.blocks:
            x, words = block(
                hidden_states=x, encoder_hidden_states=words, temb=time[:, 0],
                image_rotary_emb=(places.cos(), places.sin()), transformer_options=options,
            )  # fmt: skip
        return x


class WordsBlock(nn.Module):
    """As Mochi's: video first, then those words that are no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.mlp_x = feed_forward()
        vars(self.mlp_x)["w2"] = self.mlp_x[2]

    def forward(self, args: dict[str, Any]) -> dict[str, Tensor]:
        """As through the host's hook."""
        x, txt, words = args["img"], args["txt"], args["num_tokens"]
        both = torch.cat((x, txt[:, :words]), dim=1) + args["vec"][:, None]
        q, k, v = (t.unflatten(2, (HEADS, -1)) for t in self.qkv(both).chunk(3, dim=2))
        rows = x.shape[1]
        table = torch.cat((args["rope_cos"], args["rope_sin"]), dim=-1)
        q, k = (torch.cat((t[:, :rows] + table, t[:, rows:]), dim=1) for t in (q, k))
        out = attend(*(t.transpose(1, 2) for t in (q, k, v)), args["transformer_options"])
        x = x + self.o(out[:, :rows])
        txt = torch.cat((txt[:, :words] + self.o(out[:, rows:]), txt[:, words:]), dim=1)
        return {"img": x + self.mlp_x(x), "txt": txt}


class Words(Network):
    """It has a hook for its blocks, and no wrapper of its own."""

    hidden_size_x = DIM

    def __init__(self) -> None:
        super().__init__(WordsBlock)

    def forward(  # type: ignore[override]
        self, x: Tensor, sigma: Tensor, text: Tensor, num_tokens: int, transformer_options: Any
    ) -> Tensor:
        """`num_tokens` words are no padding."""
        return super().forward(x, sigma, text, {**transformer_options, "words": num_tokens})

    def run(self, grid: Tensor, time: Tensor, words: Tensor, options: dict[str, Any]) -> Tensor:
        """Each block through its replacement when there is one."""
        x, number = grid.flatten(2).transpose(1, 2), options.pop("words")
        places = torch.arange(x.shape[1])[:, None] * torch.linspace(0.05, 1.0, DIM // 4)
        places = places[:, None].expand(-1, HEADS, -1)
        tables = {"rope_cos": places.cos(), "rope_sin": places.sin()}
        replace = options.get("patches_replace", {}).get("dit", {})
        for i, block in enumerate(self.blocks):
            args = {"img": x, "txt": words, "vec": time[:, 0], "num_tokens": number, **tables}
            args["transformer_options"] = options
            patch = replace.get(("double_block", i))
            out = block(args) if patch is None else patch(args, {"original_block": block})
            x, words = out["img"], out["txt"]
        return x


# an adapter goes by the host class's qualified name
Grid.__module__, Grid.__qualname__ = "comfy.ldm.cosmos.predict2", "MiniTrainDIT"
Pair.__module__, Pair.__qualname__ = "comfy.ldm.cogvideo.model", "CogVideoXTransformer3DModel"
Words.__module__ = "comfy.ldm.genmo.joint_model.asymm_models_joint"
Words.__qualname__ = "AsymmDiTJoint"
