"""Wan trained to make a video block of frames by block, with keys and values of its own (ours).

ComfyUI's `ar_video` sampler has the network keep the keys and values of all frames so far. They
serve a partial evaluation too: a block's slots are put in another order for it, so that what the
network writes behind the last frame are the rows that run, and what it attends to is all the rest.
Keys carry their rotary position, so their order does not matter to attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .adapter import MODEL, Adapter, given_clean
from .block_stream import Arguments, BlockRun, RowGather, Shadow
from .wan import BLOCKS, WAN
from .wan_variants import variant

# where ComfyUI says that a call goes on with what the network has kept
NATIVE = "ar_state"


def _bind(
    x: Tensor, e: Tensor, freqs: Tensor, kv_cache: dict[str, Any], **kwargs: Any
) -> Arguments:
    return {"img": x, "vec": e, "pe": freqs, "kv_cache": kv_cache, "more": kwargs}


def _call(block: Callable[..., Tensor], args: Arguments, gather: RowGather | None) -> Arguments:
    cache = args["kv_cache"]

    def run() -> Arguments:
        return {
            "img": block(
                args["img"], e=args["vec"], freqs=args["pe"], kv_cache=cache, **args["more"]
            )
        }

    if gather is None:
        return run()
    with _active_last(cache, gather):
        return run()


@contextmanager
def _active_last(cache: dict[str, Any], gather: RowGather) -> Iterator[None]:
    """The frames' slots hold the rows that are not active, then those that are, which the network
    is about to write; afterwards they are in the order of rows again."""
    start, order = cache["end"], gather.active_last
    slots = slice(start, start + gather.tokens)
    for name in ("k", "v"):
        cache[name][:, slots] = cache[name][:, slots].index_select(1, order)
    cache["end"] = start + gather.tokens - gather.rows.shape[1]
    yield
    for name in ("k", "v"):
        kept = cache[name][:, slots]
        cache[name][:, slots] = torch.empty_like(kept).index_copy_(1, order, kept)


def _skip(args: Mapping[str, Any]) -> None:
    """The sampler takes the frames' rows off again, and expects them to be there."""
    cache = args["kv_cache"]
    cache["end"] += args["img"].shape[1]


_BLOCKS: BlockRun = replace(
    BLOCKS,
    hook="causal_block",
    keys=(),
    # they write to the network's keys and values, and cannot be run again for the same rows
    writes_input=True,
    shadow=Shadow("blocks", _bind, _call, lambda out: out["img"], _skip),
)
WITH_OWN_KEYS = variant(
    "Wan, autoregressive", runs=(_BLOCKS,), clean=given_clean, entry=MODEL, timestep_scale=1.0
)


def _of_call(
    network: Any, options: Mapping[str, Any], arguments: Mapping[str, Any]
) -> Adapter | None:
    return WITH_OWN_KEYS if NATIVE in options else None


# where its own sampler does not call it, it is an ordinary Wan
WAN_CAUSAL = variant(
    "Wan, autoregressive", "ar_model.CausalWanModel", of_call=_of_call,
    shift_frames=WAN.shift_frames,
)  # fmt: skip
