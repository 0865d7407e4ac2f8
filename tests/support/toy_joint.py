"""A small joint-stream network and its adapter: what HunyuanVideo-like families do, in one file.

Text rows stand in front of the video rows in every attention. Blocks come in two runs, first with
two streams, then with one; they write into the tokens that they are given, and a mask over the keys
hides the text's padding. The model's input and output are lists: a latent, and one more tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

import torch
import torch.nn.functional as F
from motioncache_pack.motioncache_core.common.token_layout import TokenLayout
from motioncache_pack.motioncache_core.models.adapter import Adapter, ModelFacts
from motioncache_pack.motioncache_core.models.block_stream import (
    BlockRun,
    BlockStream,
    KeySite,
    RowGather,
)
from motioncache_pack.motioncache_core.policy.distance import InputChange
from torch import Tensor, nn

HEADS, DIM, CHANNELS, TEXT = 2, 32, 4, 12


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Of `(B, H, S, D)` tensors; returns `(B, S, H * D)`."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def attend(qkv: Tensor, table: Tensor, mask: Tensor | None, options: Mapping[str, Any]) -> Tensor:
    """Joint attention of `(B, S, 3 * C)`, through the override where there is one.

    `table` is `(1, S, 1, d)`, added to queries and keys in the place of a rotation.
    """
    split = qkv.unflatten(2, (3, HEADS, -1)).unbind(2)
    q, k, v = (split[0] + table).transpose(1, 2), (split[1] + table).transpose(1, 2), split[2]
    v = v.transpose(1, 2)
    override: Callable[..., Tensor] | None = options.get("optimized_attention_override")
    if override is None:
        return attention(q, k, v, HEADS, mask=mask)
    return override(attention, q, k, v, HEADS, mask=mask)


class DoubleBlock(nn.Module):
    """Text and video with weights of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.img_qkv, self.txt_qkv = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, 3 * DIM)
        self.img_out, self.txt_out = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

    def forward(self, args: Mapping[str, Any]) -> dict[str, Tensor]:
        img, txt, vec = args["img"], args["txt"], args["vec"][:, None]
        qkv = torch.cat((self.txt_qkv(txt), self.img_qkv(img + vec)), dim=1)
        out = attend(qkv, args["pe"], args["attention_mask"], args["transformer_options"])
        rows = txt.shape[1]
        # in place, as the host's do
        img += self.img_out(out[:, rows:]).tanh()
        txt += self.txt_out(out[:, :rows]).tanh()
        return {"img": img, "txt": txt}


class SingleBlock(nn.Module):
    """One stream, text first."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, args: Mapping[str, Any]) -> dict[str, Tensor]:
        x = args["img"]
        qkv = self.qkv(x + args["vec"][:, None])
        out = attend(qkv, args["pe"], args["attention_mask"], args["transformer_options"])
        x += self.out(out).tanh()
        return {"img": x}


class ToyJoint(nn.Module):
    """Patches of 1 x 2 x 2.

    Args:
        double, single: blocks of each run.
    """

    def __init__(self, double: int = 2, single: int = 2) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.img_in = nn.Conv3d(CHANNELS, DIM, (1, 2, 2), (1, 2, 2))
        self.txt_in, self.time_in = nn.Linear(TEXT, DIM), nn.Linear(1, DIM)
        self.double_blocks = nn.ModuleList(DoubleBlock() for _ in range(double))
        self.single_blocks = nn.ModuleList(SingleBlock() for _ in range(single))
        self.head = nn.Linear(DIM, CHANNELS * 4)
        self.eval()

    @torch.no_grad()
    def forward(
        self,
        x: list[Tensor],
        timestep: Tensor,
        context: Tensor,
        attention_mask: Tensor | None = None,
        transformer_options: Mapping[str, Any] | None = None,
    ) -> list[Tensor]:
        """`x` is a latent `(B, 4, F, H, W)` and one more tensor, `context` `(B, T, 12)`,
        `attention_mask` boolean `(B, T)`, True = attend."""
        latent, extra = x
        options = dict(transformer_options or {})
        img = self.img_in(latent)
        grid = img.shape[2:]
        img, txt = img.flatten(2).transpose(1, 2), self.txt_in(context)
        rows, length = txt.shape[1], img.shape[1]
        places = torch.arange(rows + length, dtype=torch.float32)[:, None]
        waves = torch.sin(places * torch.linspace(0.05, 1.0, DIM // HEADS))
        options["img_slice"] = [rows, rows + length]
        shared = {
            "vec": self.time_in(timestep[:, None] / 1000),
            "pe": waves[None, :, None],
            "attention_mask": None,
            "transformer_options": options,
        }
        if attention_mask is not None:
            mask = F.pad(attention_mask, (0, length), value=True)
            shared["attention_mask"] = mask[:, None, None]
        patches = options.get("patches_replace", {}).get("dit", {})

        def run(key: tuple[str, int], block: nn.Module, args: dict[str, Any]) -> dict[str, Any]:
            if key not in patches:
                return block(args)
            return patches[key](args, {"original_block": block})

        for i, block in enumerate(self.double_blocks):
            out = run(("double_block", i), block, {"img": img, "txt": txt, **shared})
            img, txt = out["img"], out["txt"]
        x_ = torch.cat((txt, img), dim=1)
        for i, block in enumerate(self.single_blocks):
            x_ = run(("single_block", i), block, {"img": x_, **shared})["img"]
        patched = self.head(x_[:, rows:]).unflatten(1, grid).unflatten(4, (CHANNELS, 2, 2))
        return [torch.einsum("bfhwcpq->bcfhpwq", patched).reshape(latent.shape), extra * 0.5]


def _facts(network: ToyJoint) -> ModelFacts:
    blocks = len(network.double_blocks), len(network.single_blocks)
    return ModelFacts(DIM, blocks, HEADS, DIM, CHANNELS, (1, 2, 2), False, 8 * DIM * DIM, 2 * DIM)


def _layout(facts: ModelFacts, x: Tensor) -> TokenLayout:
    return TokenLayout(x.shape[2], x.shape[3] // 2, x.shape[4] // 2)


def _text_rows(args: Mapping[str, Any]) -> int:
    return args["transformer_options"]["img_slice"][0]


def _with_tokens(args: Mapping[str, Any], tokens: Tensor) -> dict[str, Any]:
    return {**args, "img": tokens}


def _take(args: Mapping[str, Any], gather: RowGather) -> dict[str, Any]:
    return {**args, "pe": gather.take(args["pe"], before=_text_rows(args))}


def _enter_double(args: Mapping[str, Any], gather: RowGather) -> dict[str, Any]:
    return _take({**args, "img": gather.alone(args["img"], gather.rows)}, gather)


def _enter_single(args: Mapping[str, Any], gather: RowGather) -> dict[str, Any]:
    rows = gather.around(_text_rows(args), 0)
    return _take({**args, "img": gather.alone(args["img"], rows)}, gather)


SITE = KeySite(
    around=lambda args: (_text_rows(args), 0),
    flat=lambda keys: keys.transpose(1, 2).flatten(2),
    shaped=lambda keys, host: keys.unflatten(2, (HEADS, -1)).transpose(1, 2),
    mask=True,
)
DOUBLE = BlockRun(
    hook="double_block",
    stream=lambda args: BlockStream(args["img"]),
    tokens=itemgetter("img"),
    with_tokens=_with_tokens,
    take=_take,
    enter=_enter_double,
    keys=(SITE,),
    writes_input=True,
)
SINGLE = BlockRun(
    hook="single_block",
    stream=lambda args: BlockStream(args["img"], before=_text_rows(args)),
    tokens=itemgetter("img"),
    with_tokens=_with_tokens,
    take=_take,
    enter=_enter_single,
    keys=(SITE,),
    writes_input=True,
)
TOY = Adapter(
    name="Toy",
    classes=(f"{__name__}.ToyJoint",),
    module_prefix=f"{__name__}.",
    positional=("context", "attention_mask", "transformer_options"),
    timestep_scale=1000.0,
    runs=(DOUBLE, SINGLE),
    facts=_facts,
    layout=_layout,
    distance=lambda facts, layout, clamp: InputChange(),
    decline=lambda arguments, options: None,
    video=itemgetter(0),
)
