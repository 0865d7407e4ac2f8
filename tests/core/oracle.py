"""What a partial evaluation must answer, found by computing the whole clip.

All rows go through all blocks, but the keys and values of rows that are not active are swapped for
the stored ones. A row's answer depends on other rows only through those, so the active rows then
answer as they would alone. No row is gathered, no table is cut.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class WholeClip:
    """The cache of one batch of rows, kept apart from the engine's."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.store: dict[tuple[int, str], Tensor] = {}
        self.residual: Tensor | None = None

    def call(
        self, x: Tensor, t: Tensor, context: Tensor, rows: list[int], **arguments: Any
    ) -> Tensor:
        """The network's output when only `rows` are computed."""
        last = len(self.network.blocks) - 1
        entered: list[Tensor] = []
        seen: set[int] = set()

        def attention(func: Any, q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
            block = kwargs["transformer_options"]["block_index"]
            if block not in seen:
                seen.add(block)
                k, v = self._mixed((block, "k"), k, rows), self._mixed((block, "v"), v, rows)
            return func(q, k, v, **kwargs)

        def first(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            entered.append(args["img"].clone())
            return extra["original_block"](args)

        def final(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            y = extra["original_block"](args)["img"]
            self.residual = self._mixed_residual(y - entered[0], rows)
            out = entered[0] + self.residual
            out[:, rows] = y[:, rows]
            return {"img": out}

        replace = {("double_block", 0): first, ("double_block", last): final}
        options = {"patches_replace": {"dit": replace}, "optimized_attention_override": attention}
        return self.network(x, t, context, transformer_options=options, **arguments)

    def _mixed(self, key: tuple[int, str], fresh: Tensor, rows: list[int]) -> Tensor:
        kept = self.store.get(key, fresh).clone()
        kept[:, rows] = fresh[:, rows]
        self.store[key] = kept
        return kept

    def _mixed_residual(self, fresh: Tensor, rows: list[int]) -> Tensor:
        kept = fresh.clone() if self.residual is None else self.residual.clone()
        kept[:, rows] = fresh[:, rows]
        return kept


def random_rows(tokens: int, count: int, seed: int) -> list[int]:
    """`count` different rows, ascending."""
    order = torch.randperm(tokens, generator=torch.Generator().manual_seed(seed))
    return sorted(order[:count].tolist())
