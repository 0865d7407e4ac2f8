"""VACE: blocks beside the stack see the controls, and what they say is added between its blocks.

They attend to all tokens, too. Where one control video is given and the last block of the stack
gets no hint, rows are left out of both alike. Else those beside the stack run on all rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .adapter import Adapter, ModelFacts
from .block_stream import Arguments, KeySite, RowGather, SideBlocks
from .wan import WAN
from .wan_variants import SPREAD, variant


def _facts_of_rows(network: Any) -> ModelFacts:
    return replace(WAN.facts(network), side_blocks=len(network.vace_blocks))


def _facts_of_all(network: Any) -> ModelFacts:
    facts = WAN.facts(network)
    side, blocks = len(network.vace_blocks), sum(facts.blocks)
    return replace(
        facts, beside=(facts.row_work * side // blocks, facts.pair_work * side // blocks)
    )


def _take(
    index: int, args: tuple[Any, ...], kwargs: Arguments, gather: RowGather
) -> tuple[tuple[Any, ...], Arguments]:
    """The controls, what entered the stack, and the rotary table; their modulation is one for all
    rows."""
    (c,) = args
    # behind the first block they are the active rows' already
    rows = gather.alone(c, gather.rows) if index == 0 else c
    return (rows,), {**kwargs, **{name: gather.take(kwargs[name]) for name in ("x", "freqs")}}


def _skip(c: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """A hint that adds nothing."""
    return torch.zeros(1, 1, 1, dtype=c.dtype, device=c.device), c


def _of_call(
    network: Any, options: Mapping[str, Any], arguments: Mapping[str, Any]
) -> Adapter | None:
    controls, hinted = arguments.get("vace_context"), getattr(network, "vace_layers_mapping", {})
    last = len(network.blocks) - 1
    one = controls is not None and controls.shape[1] == 1
    # a hint behind the last block would be added to rows that were put together there
    return WAN_VACE_ROWS if one and hinted and last not in hinted else None


WAN_VACE = variant(
    "Wan VACE", "model.VaceWanModel", runs=(SPREAD,), facts=_facts_of_all, of_call=_of_call
)
WAN_VACE_ROWS = variant(
    "Wan VACE",
    facts=_facts_of_rows,
    side=SideBlocks("vace_blocks", _take, _skip, KeySite()),
)
