"""Every family of the contract test: a small network and its calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from motioncache_pack.motioncache_core.models.hunyuan_video import HUNYUAN_VIDEO
from motioncache_pack.motioncache_core.models.kandinsky import KANDINSKY
from motioncache_pack.motioncache_core.models.minimax import MINIMAX_H3
from motioncache_pack.motioncache_core.models.mochi import MOCHI
from motioncache_pack.motioncache_core.models.wan import WAN
from motioncache_pack.tests.core.small_wan import CASES as WAN_CASES
from motioncache_pack.tests.support import toy_hidden, toy_hunyuan, toy_kandinsky, toy_minimax
from motioncache_pack.tests.support.family import Call, Family
from motioncache_pack.tests.support.ltx_families import LTX_FAMILIES
from motioncache_pack.tests.support.wan_families import WAN_VARIANTS
from torch import Tensor

SIZE = (3, 6, 8)


def _wan(name: str) -> Family:
    case = WAN_CASES[name]

    def call(step: int, prompt: int) -> Call:
        x, t, context, more = case.inputs(step)
        return Call(x, t, context + prompt, more)

    network = case.network()
    hooks = tuple(("double_block", i) for i in range(len(network.blocks)))
    return Family(WAN, network, case.tokens, call, hooks, lambda _, x, __: x, lambda k, _: k)


def _hunyuan(
    double: int = 2,
    single: int = 2,
    text: int = 5,
    *,
    masked: bool = False,
    replaced: bool = False,
    reference: bool = False,
    batch: int = 1,
) -> Family:
    """`replaced`: the first frame is the given image; `reference`: an image in front of it."""
    network = toy_hunyuan.HunyuanVideo(double, single)
    frame = SIZE[1] * SIZE[2] // 4
    before = frame * (replaced + reference)

    def call(step: int, prompt: int) -> Call:
        rng = torch.Generator().manual_seed(step)
        x = torch.randn(batch, toy_hunyuan.CHANNELS, *SIZE, generator=rng)
        fixed = torch.Generator().manual_seed(90 + prompt)
        words = torch.randn(batch, text, toy_hunyuan.TEXT, generator=fixed)
        more: dict[str, Any] = {}
        if masked:
            more["attention_mask"] = (torch.arange(text)[None] < text - 2).long()
        if replaced:
            more["guiding_frame_index"] = torch.zeros(1)
        if reference:
            more["ref_latent"] = torch.randn(1, toy_hunyuan.CHANNELS, 1, *SIZE[1:], generator=fixed)
        return Call(x, torch.full((batch,), 950.0 - 80 * step), words, more)

    def video_in(hook: str, tokens: Tensor, _: Call) -> Tensor:
        return tokens[:, before + (text if hook == "single_block" else 0) :]

    def held(hook: str, tokens: Tensor, _: Call) -> Tensor:
        first = text if hook == "single_block" else 0
        return tokens[:, first : first + before]

    hooks = [("double_block", i) for i in range(double)]
    hooks += [("single_block", i) for i in range(single)]
    tokens = (SIZE[0] - replaced) * frame
    return Family(
        HUNYUAN_VIDEO, network, tokens, call, tuple(hooks), video_in,
        lambda keys, _: keys.transpose(1, 2)[:, text + before :], held=held,
    )  # fmt: skip


def kandinsky_block(network: Any, index: int) -> Callable[..., Any]:
    """A block as the host calls one that is not replaced."""

    def call(args: dict[str, Any]) -> dict[str, Any]:
        more = {name: args[name] for name in ("freqs", "transformer_options")}
        block = network.visual_transformer_blocks[index]
        return {"x": block(args["x"], args["context"], args["time_embed"], **more)}

    return call


def _kandinsky(batch: int = 1, given: int = 0) -> Family:
    """`given`: frames at the start that are images."""
    network = toy_kandinsky.Kandinsky5()
    frame = SIZE[1] * SIZE[2] // 4
    before = given * frame

    def call(step: int, prompt: int) -> Call:
        rng = torch.Generator().manual_seed(step)
        x = torch.randn(batch, toy_kandinsky.CHANNELS, *SIZE, generator=rng)
        fixed = torch.Generator().manual_seed(90 + prompt)
        words = torch.randn(batch, 5, toy_kandinsky.TEXT, generator=fixed)
        more: dict[str, Any] = {}
        if given:
            shape = (1, toy_kandinsky.CHANNELS, given, *SIZE[1:])
            more["time_dim_replace"] = torch.randn(shape, generator=fixed)
        return Call(x, torch.full((batch,), 950.0 - 80 * step), words, more)

    return Family(
        KANDINSKY, network, SIZE[0] * frame - before, call,
        tuple(("double_block", i) for i in range(3)), lambda _, tokens, __: tokens[:, before:],
        lambda keys, _: keys.transpose(1, 2)[:, before:],
        held=(lambda _, tokens, __: tokens[:, :before]) if given else None,
        name="x", own_call=kandinsky_block,
    )  # fmt: skip


def _minimax(condition: bool = False, levels: bool = False) -> Family:
    network = toy_minimax.MiniMaxH3Model()
    tokens = SIZE[0] * SIZE[1] * SIZE[2] // 4

    def call(step: int, prompt: int) -> Call:
        rng = torch.Generator().manual_seed(step)
        x = [torch.randn(1, toy_minimax.CHANNELS, *SIZE, generator=rng),
             torch.randn(1, 7, toy_minimax.SOUND, generator=rng)]  # fmt: skip
        fixed = torch.Generator().manual_seed(90 + prompt)
        words = torch.randn(1, 5, toy_minimax.TEXT, generator=fixed)
        more: dict[str, Any] = {}
        if condition:
            shape = (1, toy_minimax.CHANNELS, 1, *SIZE[1:])
            more["condition"] = torch.randn(shape, generator=fixed)
        if levels:
            more["levels"] = (torch.arange(tokens) % 3 == 0).long()
        return Call(x, torch.tensor([950.0 - 80 * step]), words, more)

    return Family(
        MINIMAX_H3, network, tokens, call, tuple(("double_block", i) for i in range(3)),
        lambda _, stream, __: stream[None, -tokens:],
        lambda keys, _: keys.transpose(1, 2)[:, -tokens:],
    )  # fmt: skip


def _words(batch: int = 1) -> Family:
    network, tokens = toy_hidden.Words().eval(), 36

    def call(step: int, prompt: int) -> Call:
        rng, fixed = (torch.Generator().manual_seed(seed) for seed in (step, 80 + prompt))
        x = torch.randn(batch, 16, *SIZE, generator=rng)
        text = torch.randn(batch, 6, toy_hidden.TEXT, generator=fixed)
        return Call(x, torch.full((batch,), 0.95 - 0.1 * step), text, {"num_tokens": 4})

    return Family(
        MOCHI, network, tokens, call, tuple(("double_block", i) for i in range(toy_hidden.LAYERS)),
        lambda _, x, __: x, lambda keys, _: keys[:, :, :tokens].transpose(1, 2),
    )  # fmt: skip


FAMILIES: dict[str, Callable[[], Family]] = {
    "wan": lambda: _wan("text to video"),
    "wan, a timestep per frame": lambda: _wan("a timestep per frame"),
    "wan, odd sides": lambda: _wan("odd sides"),
    **WAN_VARIANTS,
    "mochi": _words,
    "mochi, two clips": lambda: _words(2),
    "hunyuan video": _hunyuan,
    "hunyuan video, masked text": lambda: _hunyuan(masked=True),
    "hunyuan video, no single blocks": lambda: _hunyuan(3, 0),
    "hunyuan video, no double blocks": lambda: _hunyuan(0, 2, text=7),
    "hunyuan video, first frame given": lambda: _hunyuan(replaced=True),
    "hunyuan video, more text than a frame": lambda: _hunyuan(text=15, replaced=True),
    "hunyuan video, reference": lambda: _hunyuan(reference=True),
    "kandinsky 5": _kandinsky,
    "kandinsky 5, first frame given": lambda: _kandinsky(given=1),
    "kandinsky 5, two clips": lambda: _kandinsky(batch=2),
    "minimax h3": _minimax,
    "minimax h3, condition": lambda: _minimax(condition=True),
    "minimax h3, rows at levels of their own": lambda: _minimax(levels=True),
    **LTX_FAMILIES,
    "hunyuan video, two clips": lambda: _hunyuan(replaced=True, batch=2),
}
