"""Every family of the contract test: a small network, its calls, and what they must answer.

The oracle here shares no code with the engine or the adapters: all rows go through all blocks, and
the keys and values of video rows that are not active are swapped for the stored ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from motioncache_pack.motioncache_core.models.adapter import Adapter
from motioncache_pack.motioncache_core.models.hunyuan_video import HUNYUAN_VIDEO
from motioncache_pack.motioncache_core.models.registry import find_adapter
from motioncache_pack.motioncache_core.models.wan import WAN
from motioncache_pack.tests.core.small_wan import CASES as WAN_CASES
from motioncache_pack.tests.core.small_wan import TEXT_DIM
from motioncache_pack.tests.support import toy_hunyuan
from motioncache_pack.tests.support.toy_joint import CHANNELS, TEXT, TOY, ToyJoint
from motioncache_pack.tests.support.toy_wan import (
    Faces,
    Hints,
    RowsAround,
    Singing,
    Speech,
    network,
)
from torch import Tensor

SIZE = (3, 6, 8)


@dataclass(frozen=True)
class Call:
    """Arguments of one model call."""

    x: Any
    t: Tensor
    context: Tensor
    more: dict[str, Any] = field(default_factory=dict)

    def run(self, network: Any, options: dict[str, Any]) -> Any:
        return network(self.x, self.t, self.context, transformer_options=options, **self.more)


@dataclass(frozen=True)
class Family:
    """One network in one kind of call.

    Attributes:
        tokens: video rows.
        call: arguments of step `i`, of one of two prompts.
        hooks: keys of all blocks, in the order in which they are called.
        video_in: the video rows of the tokens that enter, or leave, a block of this kind.
        video_keys: the video rows of the keys of its attention, as a view in the host's form.
        sites: the attention calls of a block, from 1, whose keys hold video rows.
        reads_input: whether the host reads what entered the first block again, behind it.
        beside: attention calls of a block beside the stack, of which the first is kept; 0 where
            there are none, or they always run on all rows.
        held: likewise the rows of conditions that the network's head reads, whose answers are
            reused with the video's.
        name: of the tokens among a block's arguments.
    """

    adapter: Adapter
    network: Any
    tokens: int
    call: Callable[[int, int], Call]
    hooks: tuple[tuple[str, int], ...]
    video_in: Callable[[str, Tensor, Call], Tensor]
    video_keys: Callable[[Tensor, Call], Tensor]
    sites: tuple[int, ...] = (1,)
    reads_input: bool = False
    beside: int = 0
    held: Callable[[str, Tensor, Call], Tensor] | None = None
    name: str = "img"

    def video(self, out: Any) -> Tensor:
        """The video in the network's answer."""
        return out if isinstance(out, Tensor) else out[0]


class Oracle:
    """The cache of one prompt, kept apart from the engine's.

    Args:
        forecast: carry keys and values on, for one call behind two of all rows, at equal steps.
    """

    def __init__(self, family: Family, forecast: bool = False) -> None:
        self.family, self.forecast = family, forecast
        self.store: dict[tuple[Any, ...], list[Tensor]] = {}
        self.residual: Tensor | None = None
        self.held: Tensor | None = None

    def call(self, call: Call, rows: Sequence[int]) -> Any:
        """The network's answer when only these video rows are computed."""
        family, active = self.family, list(rows)
        entered: list[Tensor] = []
        first: list[str] = []
        running: list[Any] = [None, 0]
        beside = itertools.count(0)

        def attention(func: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
            running[1] += 1
            if running[0] is None and family.beside:
                number = next(beside)
                if number % family.beside == 0:
                    k, v = k.clone(), v.clone()
                    for name, fresh in (("k", k), ("v", v)):
                        self._mix(("beside", number, name), family.video_keys(fresh, call), active)
            if running[0] is not None and running[1] in family.sites:
                k, v = k.clone(), v.clone()
                for name, fresh in (("k", k), ("v", v)):
                    self._mix((*running, name), family.video_keys(fresh, call), active)
            return func(q, k, v, *args, **kwargs)

        def patch(key: tuple[str, int]) -> Callable[..., Any]:
            def patched(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
                running[:] = [key, 0]
                if key == family.hooks[0]:
                    entered.append(args[family.name].clone())
                    first.append(key[0])
                out = extra["original_block"](args)
                running[0] = None
                if key == family.hooks[-1]:
                    y = out[family.name].clone()
                    ends = (first[0], entered[0]), (key[0], y)
                    self._answer(*(family.video_in(*end, call) for end in ends), active)
                    if family.held is not None:
                        self._hold(*(family.held(*end, call) for end in ends), active)
                    out = {**out, family.name: y}
                return out

            return patched

        options = {
            "patches_replace": {"dit": {key: patch(key) for key in family.hooks}},
            "optimized_attention_override": attention,
        }
        return call.run(family.network, options)

    def _answer(self, x: Tensor, video: Tensor, active: list[int]) -> None:
        fresh = video - x
        if self.residual is None:
            self.residual = fresh.clone()
        self.residual[:, active] = fresh[:, active]
        answer = x + self.residual
        answer[:, active] = video[:, active]
        video.copy_(answer)

    def _hold(self, x: Tensor, y: Tensor, active: list[int]) -> None:
        if active:
            self.held = y - x
        elif self.held is not None:
            y.copy_(x + self.held)

    def _mix(self, key: tuple[Any, ...], fresh: Tensor, active: list[int]) -> None:
        """Rows that are not active are overwritten, in place, with what was stored."""
        before = self.store.setdefault(key, [fresh.clone()])
        kept = 2 * before[-1] - before[-2] if self.forecast and len(before) > 2 else before[-1]
        kept = kept.clone()
        kept[:, active] = fresh[:, active]
        fresh.copy_(kept)
        before.append(kept)


def _wan(name: str) -> Family:
    case = WAN_CASES[name]

    def call(step: int, prompt: int) -> Call:
        x, t, context, more = case.inputs(step)
        return Call(x, t, context + prompt, more)

    network = case.network()
    hooks = tuple(("double_block", i) for i in range(len(network.blocks)))
    return Family(WAN, network, case.tokens, call, hooks, lambda _, x, __: x, lambda k, _: k)


def _variant(
    network: RowsAround,
    before: int = 0,
    batch: int = 1,
    framewise: bool = False,
    beside: int = 0,
    **given: tuple[int, ...] | int,
) -> Family:
    """A network with rows around the video's, or with something between the blocks.

    Args:
        given: its further arguments, as shapes behind the batch.
    """
    size = (4, 6, 8)
    tokens = size[0] * 12

    def call(step: int, prompt: int) -> Call:
        rng, fixed = (torch.Generator().manual_seed(seed) for seed in (step, 40 + prompt))
        x = torch.randn(batch, 16, *size, generator=rng)
        t = torch.full((batch,), 1000.0 - 75 * step)
        if framewise:
            t = t[:, None] - 90 * torch.arange(size[0])
        context = torch.randn(batch, 6, TEXT_DIM, generator=fixed)
        more: dict[str, Any] = {
            name: shape if isinstance(shape, int) else torch.randn(batch, *shape, generator=fixed)
            for name, shape in given.items()
        }
        if "context_latents" in more:
            more["context_latents"] = [more["context_latents"]]
        return Call(x, t, context, more)

    video = slice(before, before + tokens)
    return Family(
        find_adapter(network)[0], network, tokens, call,
        tuple(("double_block", i) for i in range(len(network.blocks))),
        lambda _, x, __: x[:, video], lambda keys, _: keys[:, video],
        reads_input=isinstance(network, Hints), beside=beside,
    )  # fmt: skip


def _toy(double: int, single: int, text: int = 5, masked: bool = False) -> Family:
    def call(step: int, prompt: int) -> Call:
        rng = torch.Generator().manual_seed(step)
        x = [torch.randn(1, CHANNELS, *SIZE, generator=rng), torch.randn(1, 3, generator=rng)]
        words = torch.randn(1, text, TEXT, generator=torch.Generator().manual_seed(90 + prompt))
        more = {}
        if masked:
            # the last two words are padding
            more["attention_mask"] = torch.arange(text)[None] < text - 2
        return Call(x, torch.tensor([950.0 - 80 * step]), words, more)

    def video_in(hook: str, tokens: Tensor, call: Call) -> Tensor:
        return tokens[:, call.context.shape[1] :] if hook == "single_block" else tokens

    def video_keys(keys: Tensor, call: Call) -> Tensor:
        # (B, H, S, D): rows first
        return keys.transpose(1, 2)[:, call.context.shape[1] :]

    hooks = [("double_block", i) for i in range(double)]
    hooks += [("single_block", i) for i in range(single)]
    tokens = SIZE[0] * SIZE[1] * SIZE[2] // 4
    network = ToyJoint(double, single)
    return Family(TOY, network, tokens, call, tuple(hooks), video_in, video_keys)


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


FAMILIES: dict[str, Callable[[], Family]] = {
    "wan": lambda: _wan("text to video"),
    "wan, a timestep per frame": lambda: _wan("a timestep per frame"),
    "wan, odd sides": lambda: _wan("odd sides"),
    "reference and context rows": lambda: _variant(
        network(RowsAround, "model", "WanModel"), 12, batch=2,
        reference_latent=(16, 6, 8), context_latents=(16, 2, 4, 6),
    ),
    "context rows, a timestep per frame": lambda: _variant(
        network(RowsAround, "model", "WanModel"), framewise=True, context_latents=(16, 2, 4, 6),
    ),
    "camera": lambda: _variant(
        network(RowsAround, "model", "CameraWanModel", flat_modulation=True), batch=2
    ),
    # by a sampler that is not its own
    "causal": lambda: _variant(network(RowsAround, "ar_model", "CausalWanModel")),
    "scail": lambda: _variant(
        network(RowsAround, "model", "SCAILWanModel"), 24,
        reference_latent=(16, 2, 6, 8), pose_latents=(16, 4, 2, 4),
    ),
    "vace": lambda: _variant(
        network(Hints, "model", "VaceWanModel"), beside=2, vace_context=(1, 16, 4, 6, 8)
    ),
    "vace, two samples": lambda: _variant(
        network(Hints, "model", "VaceWanModel"), beside=2, batch=2, vace_context=(1, 16, 4, 6, 8)
    ),
    "vace, two contexts": lambda: _variant(
        network(Hints, "model", "VaceWanModel"), vace_context=(2, 16, 4, 6, 8)
    ),
    "vace, last block hinted": lambda: _variant(
        network(Hints, "model", "VaceWanModel", hinted=(0, 2)), vace_context=(1, 16, 4, 6, 8)
    ),
    "s2v": lambda: _variant(
        network(Speech, "model", "WanModel_S2V", timed=True, behind=True), frames=4,
        reference_latent=(16, 1, 6, 8), words=(4, 5, 256),
    ),
    "animate": lambda: _variant(
        network(Faces, "model_animate", "AnimateWanModel"), words=(4, 5, 256)
    ),
    "humo": lambda: _variant(
        network(Singing, "model", "HumoWanModel", behind=True), batch=2,
        reference_latent=(16, 1, 6, 8), words=(5, 3, 256),
    ),
    "dancer": lambda: _variant(
        network(Speech, "model_wandancer", "WanDancerModel"), batch=2, words=(4, 1, 256)
    ),
    "toy": lambda: _toy(2, 2),
    "toy, masked": lambda: _toy(2, 2, masked=True),
    "toy, one run": lambda: _toy(3, 0),
    "toy, one stream": lambda: _toy(0, 2, text=7),
    "hunyuan video": _hunyuan,
    "hunyuan video, masked text": lambda: _hunyuan(masked=True),
    "hunyuan video, no single blocks": lambda: _hunyuan(3, 0),
    "hunyuan video, first frame given": lambda: _hunyuan(replaced=True),
    "hunyuan video, more text than a frame": lambda: _hunyuan(text=15, replaced=True),
    "hunyuan video, reference": lambda: _hunyuan(reference=True),
    "hunyuan video, two clips": lambda: _hunyuan(replaced=True, batch=2),
}  # fmt: skip
