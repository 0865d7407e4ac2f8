"""Blocks that `torch.compile` has compiled one by one, inside an engine that is not compiled."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..models.block_stream import BlockStream

# numbers of rows that blocks may be compiled for; the second one already gives code for any number,
# unless the blocks are compiled with dynamic=False
SIZES = 2

_sizes: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], set[int]]] = WeakKeyDictionary()


def find_compiled(network: object) -> nn.Module | None:
    """The first part of a network that `torch.compile` has wrapped; None if there is none."""
    if "torch._dynamo" not in sys.modules or not isinstance(network, nn.Module):
        return None
    return next((m for m in network.modules() if is_compiled(m)), None)


def is_compiled(module: object) -> bool:
    """Whether a module as a whole is compiled, by `torch.compile` or by its own `compile`."""
    # importing the compiler takes a second, and without it nothing is compiled
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None or not isinstance(module, nn.Module):
        return False
    return isinstance(module, dynamo.OptimizedModule) or module._compiled_call_impl is not None


@contextmanager
def in_a_run(device: torch.device) -> Iterator[None]:
    """Compiled code of this run is not that of runs without the cache.

    Code that was compiled without the attention hook bypasses it, and code compiled with it fails
    without. ComfyUI lets `torch.compile` drop the checks that would tell (guards on
    `transformer_options`), but not those on torch's global state. Of that we change the one part
    that does nothing while autocast is off.
    """
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(before and torch.is_autocast_enabled(device.type))
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


@contextmanager
def few_sizes(compiled: nn.Module, stream: BlockStream) -> Iterator[None]:
    """Blocks are not compiled again for every number of active rows.

    After the first few numbers they run as they were compiled, if that serves, or uncompiled.

    Args:
        compiled: what `find_compiled` found.
        stream: what enters the block.
    """
    batch, rows = stream.tokens.shape[:2]
    kind = (batch, *stream.variant)
    known = _sizes.setdefault(compiled, {}).setdefault(kind, set())
    # a torch before 2.6 cannot be told so, and compiles up to a limit of its own
    if rows in known or len(known) < SIZES or not hasattr(torch.compiler, "set_stance"):
        known.add(rows)
        yield
        return
    with torch.compiler.set_stance("eager_on_recompile"):
        yield
