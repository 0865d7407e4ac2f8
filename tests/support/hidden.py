"""Families whose calls are those of the model around the network, and what they must answer.

The oracle shares no code with the engine or the adapters: all rows go through all blocks, which
module hooks watch, and keys and values of video rows that are not active are swapped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Run = Callable[[dict[str, Any]], Tensor]


@dataclass(frozen=True)
class Calls:
    """What a model is called with in one step, and what runs it with the host's options."""

    x: Tensor
    sigma: Tensor
    run: Run
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Hidden:
    """One network in one kind of call.

    Attributes:
        tokens: video rows.
        call: of step `i`, for one of two prompts.
        rows: a block's tokens `(B, L, C)`, a view, from what it is called with or from its answer.
        video_keys: the video rows of the keys of its first attention, as a view, rows behind the
            batch.
    """

    network: Any
    tokens: int
    call: Callable[[int, int], Calls]
    rows: Callable[[Any, dict[str, Any]], Tensor]
    video_keys: Callable[[Tensor], Tensor]


class Oracle:
    """The cache of one prompt, kept apart from the engine's."""

    def __init__(self, family: Hidden) -> None:
        self.family = family
        self.store: dict[tuple[int, str], Tensor] = {}
        self.residual: Tensor | None = None

    def call(self, call: Calls, active: Sequence[int]) -> Tensor:
        """The answer when only these video rows are computed."""
        family, blocks = self.family, list(self.family.network.blocks)
        running, entered = [-1, 0], list[Tensor]()

        def attention(func: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
            running[1] += 1
            if running[0] >= 0 and running[1] == 1:
                k, v = k.clone(), v.clone()
                for name, fresh in (("k", k), ("v", v)):
                    self._mix((running[0], name), family.video_keys(fresh), active)
            return func(q, k, v, *args, **kwargs)

        def before(index: int, module: Any, args: Any, kwargs: Any) -> None:
            running[:] = [index, 0]
            if index == 0:
                entered.append(family.rows(args, kwargs).clone())

        def behind(index: int, module: Any, args: Any, kwargs: Any, out: Any) -> None:
            running[0] = -1
            if index == len(blocks) - 1:
                video = family.rows(out, {})
                fresh = video - entered[0]
                if self.residual is None:
                    self.residual = fresh.clone()
                self.residual[:, list(active)] = fresh[:, list(active)]
                answer = entered[0] + self.residual
                answer[:, list(active)] = video[:, list(active)]
                video.copy_(answer)

        hooks = []
        for i, block in enumerate(blocks):
            first, last = _numbered(before, i), _numbered(behind, i)
            hooks.append(block.register_forward_pre_hook(first, with_kwargs=True))
            hooks.append(block.register_forward_hook(last, with_kwargs=True))
        try:
            return call.run({**call.options, "optimized_attention_override": attention})
        finally:
            for hook in hooks:
                hook.remove()

    def _mix(self, key: tuple[int, str], fresh: Tensor, active: Sequence[int]) -> None:
        kept, rows = self.store.setdefault(key, fresh.clone()).clone(), list(active)
        kept[:, rows] = fresh[:, rows]
        fresh.copy_(kept)
        self.store[key] = kept


def _numbered(function: Callable[..., None], index: int) -> Callable[..., None]:
    return lambda *args: function(index, *args)


def notes(network: Any, before: dict[int, Tensor]) -> list[tuple[int, ...]]:
    """Shapes of tensors that the host's network has left on itself since then, as it does."""
    own = [value for name, value in vars(network).items() if not name.startswith("_")]
    inner = [value for held in own if isinstance(held, dict) for value in held.values()]
    tensors = [value for value in (*own, *inner) if isinstance(value, Tensor)]
    return [tuple(value.shape) for value in tensors if id(value) not in before]
