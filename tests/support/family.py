"""One family of the contract test: its network, its calls, and what they must answer.

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
        held: likewise the rows of conditions that the network's head reads, whose answers are
            reused with the video's.
        name: of the tokens among a block's arguments.
        reads_input: whether the host reads what entered the first block again, behind it.
        side_calls: attention calls of a block beside the stack, of which the first is kept; 0 where
            there are none, or they always run on all rows.
        own_call: a block by its number, where the host's function for replacements is of no use.
    """

    adapter: Adapter
    network: Any
    tokens: int
    call: Callable[[int, int], Call]
    hooks: tuple[tuple[str, int], ...]
    video_in: Callable[[str, Tensor, Call], Tensor]
    video_keys: Callable[[Tensor, Call], Tensor]
    sites: tuple[int, ...] = (1,)
    held: Callable[[str, Tensor, Call], Tensor] | None = None
    name: str = "img"
    own_call: Callable[[Any, int], Callable[..., Any]] | None = None
    reads_input: bool = False
    side_calls: int = 0

    def original(self, key: tuple[str, int], extra: dict[str, Any]) -> Callable[..., Any]:
        """A block as the host calls it, where it is given as what `extra` says."""
        if self.own_call is None:
            block: Callable[..., Any] = extra["original_block"]
            return block
        return self.own_call(self.network, key[1])

    def video(self, out: Any) -> Tensor:
        """All that the network answers, sound behind the video, as one tensor."""
        if isinstance(out, Tensor):
            return out
        return torch.cat([part.flatten() for part in out])

    def kinds(self, *decided: str) -> list[str]:
        """What calls execute that are decided so: sound is computed when the video is reused."""
        sound = self.adapter.answers_beside
        return ["partial" if sound and kind == "reuse" else kind for kind in decided]


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
        family = self.family
        # one row is computed with the sound, where there is any
        active = list(rows) or [0] * family.adapter.answers_beside
        entered: list[Tensor] = []
        first: list[str] = []
        running: list[Any] = [None, 0]
        last: list[Tensor] = []
        beside = itertools.count(0)

        def attention(func: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
            # one attention may be split into several calls with the same keys
            if last and last[0] is k:
                return func(q, *last[1:], *args, **kwargs)
            fresh = k
            running[1] += 1
            if running[0] is None and family.side_calls:
                number = next(beside)
                if number % family.side_calls == 0:
                    k, v = k.clone(), v.clone()
                    for name, mixed in (("k", k), ("v", v)):
                        self._mix(("beside", number, name), family.video_keys(mixed, call), active)
            if running[0] is not None and running[1] in family.sites:
                k, v = k.clone(), v.clone()
                for name, mixed in (("k", k), ("v", v)):
                    self._mix((*running, name), family.video_keys(mixed, call), active)
            last[:] = [fresh, k, v]
            return func(q, k, v, *args, **kwargs)

        def patch(key: tuple[str, int]) -> Callable[..., Any]:
            def patched(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
                running[:] = [key, 0]
                if key == family.hooks[0]:
                    entered.append(copied(args[family.name]))
                    first.append(key[0])
                out = family.original(key, extra)(args)
                running[0] = None
                if key == family.hooks[-1]:
                    y = copied(out[family.name])
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


def copied(tokens: Any) -> Any:
    """Tokens of one kind or several."""
    return tokens.clone() if isinstance(tokens, Tensor) else tuple(t.clone() for t in tokens)
