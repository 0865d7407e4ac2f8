"""Looks at what enters the first block of a call and what leaves the last, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from ..common.token_layout import TokenLayout
from ..models.adapter import Adapter, ModelFacts
from ..models.block_stream import GRID, BlockRun
from .shadow import BlockPatch, hidden

# a thin sample of rows is enough for a mean and keeps the copies small
_ROWS = 4096


class BlockProbe:
    """The hooks of one call.

    Args:
        layout: of the video rows, for blocks that the host does not let us replace.

    Attributes:
        tokens: `(B, n, C)`, a thin sample of the video rows that entered the first block.
        modulation: timestep modulation `(T, 6, C)` of a batch row, where the family has one.
        residual: what the blocks added to the tokens; None before the last one has run.
    """

    def __init__(
        self,
        adapter: Adapter,
        facts: ModelFacts,
        network: object,
        layout: TokenLayout | None = None,
    ) -> None:
        self._blocks, self._network, self._layout = adapter.blocks(facts), network, layout
        self._hidden: dict[tuple[str, int], BlockPatch] = {}
        self.tokens: Tensor | None = None
        self.modulation: Callable[[int], Tensor] | None = None
        self.residual: Tensor | None = None

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of the host's options with ours in front of the patches already there."""
        replaced = dict(options.get("patches_replace", {}))
        patches = dict(replaced.get("dit", {}))
        last = len(self._blocks) - 1
        for index, (run, i) in enumerate(self._blocks):
            key, held = (run.hook, i), patches if run.shadow is None else self._hidden
            # a network whose blocks are hidden has none left of its own
            if run.shadow is not None or index in (0, last):
                own = None if run.call is None else partial(run.call, self._network, i)
                held[key] = self._patch(run, index == 0, index == last, patches.get(key), own)
        replaced["dit"] = patches
        grid = self._layout
        told = {} if grid is None else {GRID: (grid.frames, grid.height, grid.width)}
        return {**options, **told, "patches_replace": replaced}

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the network is called with `options`."""
        with ExitStack() as stack:
            for run in {run.hook: run for run, _ in self._blocks}.values():
                if run.shadow is not None:
                    stack.enter_context(hidden(self._network, run, self._hidden, lambda: None))
            yield

    def _patch(
        self, run: BlockRun, first: bool, last: bool, previous: Any, own: Any
    ) -> Callable[..., Any]:
        def patch(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            if first:
                stream = run.stream(args)
                # a block may write into it
                self.tokens, self.modulation = _sample(stream.video).clone(), stream.modulation
            original = own or extra["original_block"]
            given = {**extra, "original_block": original}
            out: dict[str, Any] = original(args) if previous is None else previous(args, given)
            if last and self.tokens is not None:
                stream = replace(run.stream(args), tokens=run.tokens(out))
                self.residual = _sample(stream.video) - self.tokens
            return out

        return patch


def _sample(rows: Tensor) -> Tensor:
    return rows[:, :: max(1, rows.shape[1] // _ROWS)]
