"""Every family of the contract test: a small network, its calls, and what they must answer.

The oracle here shares no code with the engine or the adapters: all rows go through all blocks, and
the keys and values of video rows that are not active are swapped for the stored ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from motioncache_pack.motioncache_core.models.adapter import Adapter
from motioncache_pack.motioncache_core.models.registry import find_adapter
from motioncache_pack.motioncache_core.models.wan import WAN
from motioncache_pack.tests.core.small_wan import CASES as WAN_CASES
from motioncache_pack.tests.core.small_wan import TEXT_DIM
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

    def call(self, call: Call, rows: Sequence[int]) -> Any:
        """The network's answer when only these video rows are computed."""
        family, active = self.family, list(rows)
        entered: list[Tensor] = []
        running: list[Any] = [None, 0]

        def attention(func: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
            running[1] += 1
            if running[0] is not None and running[1] in family.sites:
                k, v = k.clone(), v.clone()
                for name, fresh in (("k", k), ("v", v)):
                    self._mix((*running, name), family.video_keys(fresh, call), active)
            return func(q, k, v, *args, **kwargs)

        def patch(key: tuple[str, int]) -> Callable[..., Any]:
            def patched(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
                running[:] = [key, 0]
                if key == family.hooks[0]:
                    entered.append(family.video_in(key[0], args["img"], call).clone())
                out = extra["original_block"](args)
                running[0] = None
                if key == family.hooks[-1]:
                    out = {**out, "img": self._answer(key[0], entered[0], out["img"], call, active)}
                return out

            return patched

        options = {
            "patches_replace": {"dit": {key: patch(key) for key in family.hooks}},
            "optimized_attention_override": attention,
        }
        return call.run(family.network, options)

    def _answer(self, hook: str, x: Tensor, y: Tensor, call: Call, active: list[int]) -> Tensor:
        y = y.clone()
        video = self.family.video_in(hook, y, call)
        fresh = video - x
        if self.residual is None:
            self.residual = fresh.clone()
        self.residual[:, active] = fresh[:, active]
        answer = x + self.residual
        answer[:, active] = video[:, active]
        video.copy_(answer)
        return y

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
        reads_input=isinstance(network, Hints),
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
    "scail": lambda: _variant(
        network(RowsAround, "model", "SCAILWanModel"), 24,
        reference_latent=(16, 2, 6, 8), context_latents=(16, 4, 2, 4),
    ),
    "vace": lambda: _variant(
        network(Hints, "model", "VaceWanModel"), vace_context=(16, 4, 6, 8)
    ),
    "s2v": lambda: _variant(
        network(Speech, "model", "WanModel_S2V", timed=True), frames=4,
        context_latents=(16, 1, 6, 8), words=(4, 5, 256),
    ),
    "animate": lambda: _variant(
        network(Faces, "model_animate", "AnimateWanModel"), words=(4, 5, 256)
    ),
    "humo": lambda: _variant(
        network(Singing, "model", "HumoWanModel"), batch=2,
        context_latents=(16, 1, 6, 8), words=(5, 3, 256),
    ),
    "dancer": lambda: _variant(
        network(Speech, "model_wandancer", "WanDancerModel"), batch=2, words=(4, 1, 256)
    ),
    "toy": lambda: _toy(2, 2),
    "toy, masked": lambda: _toy(2, 2, masked=True),
    "toy, one run": lambda: _toy(3, 0),
    "toy, one stream": lambda: _toy(0, 2, text=7),
}  # fmt: skip
