"""What block-causal attention must answer, found by computing whole clips with explicit masks."""

from __future__ import annotations

from typing import Any

import torch
from motioncache_pack.motioncache_core.models.wan import WAN
from motioncache_pack.motioncache_core.sampling.forcing_call import ForcingCall
from torch import Tensor

WORKING, FINISHED = ("active", "clean"), ("clean", "done")


class Masked:
    """Everything a chunk has ever seen is computed anew in each call, with a mask.

    Frames that left a rolling window stay in the input as they last were. A chunk attends to the
    frames that were in the window when it was last computed, up to its own end.

    Args:
        keep: finished frames that stay visible from the next call on, the last ones; 0 is those in
            the window.
    """

    def __init__(self, network: Any, keep: int = 0) -> None:
        self.network, self.keep, self.finished = network, keep, 0
        self.window = -1
        self.frames: dict[int, tuple[Tensor, float]] = {}
        self.first_seen: dict[int, int] = {}
        self.chunk_of: dict[int, int] = {}
        self.chunk_end: dict[int, int] = {}

    def call(
        self, x: Tensor, t: Tensor, context: Tensor, names: tuple[str, ...], forcing: ForcingCall
    ) -> Tensor:
        self._remember(x[: len(x) // len(names)], forcing)
        first, start = min(self.frames), forcing.iteration.start
        stop = start + forcing.iteration.frames
        clip = torch.cat([self.frames[f][0] for f in range(first, stop)], dim=2)
        levels = torch.tensor([self.frames[f][1] for f in range(first, stop)])
        tokens = -(-x.shape[3] // 2) * -(-x.shape[4] // 2)
        mask = self._mask(first, stop).repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)

        def attention(func: Any, q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
            return func(q, k, v, mask=mask if k.shape[1] == len(mask) else None, **kwargs)

        out: Tensor = self.network(
            torch.cat([clip] * len(names)),
            (1000 * levels).expand(len(x), -1),
            context,
            transformer_options={"optimized_attention_override": attention},
        )
        return out[:, :, start - first :]

    def _remember(self, x: Tensor, forcing: ForcingCall) -> None:
        it = forcing.iteration
        if it.window != self.window:
            self.window, self.frames, self.first_seen = it.window, {}, {}
            self.chunk_of, self.chunk_end, self.finished = {}, {}, it.start
        seen = max(0, self.finished - self.keep) if self.keep else it.start
        self.finished = it.start
        for span, step in zip(it.chunk_frames(), it.steps, strict=True):
            chunk = it.start + span.start
            self.chunk_end[chunk] = it.start + span.stop
            if step.role in WORKING:
                self.first_seen[chunk] = max(seen, min(self.frames, default=it.start))
            if step.role in FINISHED:
                self.finished = it.start + span.stop
            for f in range(span.start, span.stop):
                self.chunk_of[it.start + f] = chunk
                self.frames[it.start + f] = x[:, :, f : f + 1].clone(), forcing.sigmas[f]

    def _mask(self, first: int, stop: int) -> Tensor:
        mask = torch.zeros(stop - first, stop - first, dtype=torch.bool)
        for f in range(first, stop):
            chunk = self.chunk_of[f]
            seen = self.first_seen.get(chunk, chunk)
            mask[f - first, seen - first : self.chunk_end[chunk] - first] = True
        return mask


class Swapped:
    """The cache of some branches, kept apart from the engine's.

    All rows go through all blocks under a block-causal mask, but the keys and values of rows that
    are not active are swapped for the stored ones. A row's answer depends on other rows only
    through those.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self.store: dict[tuple[int, str], Tensor] = {}
        self.residual: Tensor | None = None
        self.start = self.left = 0

    def call(
        self, x: Tensor, t: Tensor, context: Tensor, forcing: ForcingCall, rows: list[int]
    ) -> Tensor:
        """The output when only `rows` are computed; other rows take the stored residual, which is
        0 for those that were never computed."""
        it = forcing.iteration
        tokens = -(-x.shape[3] // 2) * -(-x.shape[4] // 2)
        self.left, self.start = tokens * (it.start - self.start), it.start
        chunk = torch.repeat_interleave(
            torch.arange(len(it.chunks)), torch.tensor(it.chunks) * tokens
        )
        mask = chunk[:, None] >= chunk[None]
        seen: set[int] = set()

        def attention(func: Any, q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
            block = kwargs["transformer_options"]["block_index"]
            if block in seen:
                return func(q, k, v, **kwargs)
            seen.add(block)
            k, v = self._mixed((block, "k"), k, rows), self._mixed((block, "v"), v, rows)
            return func(q, k, v, mask=mask, **kwargs)

        entered: list[Tensor] = []

        def first(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            entered.append(args["img"].clone())
            return extra["original_block"](args)

        def final(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            y = extra["original_block"](args)["img"]
            out = entered[0] + self._moved(self.residual, torch.zeros_like(y))
            out[:, rows] = y[:, rows]
            self.residual = out - entered[0]
            return {"img": out}

        last = len(self.network.blocks) - 1
        replace = {("double_block", 0): first, ("double_block", last): final}
        given = {"patches_replace": {"dit": replace}, "optimized_attention_override": attention}
        return self.network(
            x, t, context, transformer_options=WAN.shifted(given, forcing.first_position)
        )

    def _mixed(self, key: tuple[int, str], fresh: Tensor, rows: list[int]) -> Tensor:
        kept = self._moved(self.store.get(key), fresh)
        kept[:, rows] = fresh[:, rows]
        self.store[key] = kept
        return kept

    def _moved(self, old: Tensor | None, new: Tensor) -> Tensor:
        """What was stored, as far as it is still in the window; `new` for rows that joined."""
        out = new.clone()
        if old is not None:
            out[:, : old.shape[1] - self.left] = old[:, self.left :]
        return out
