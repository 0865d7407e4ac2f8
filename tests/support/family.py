"""A family of the contract test: a small network, its calls, and what they must answer.

The oracle here shares no code with the engine or the adapters: all rows go through all blocks, and
the keys and values of video rows that are not active are swapped for the stored ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from motioncache_pack.motioncache_core.models.adapter import Adapter
from torch import Tensor


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
