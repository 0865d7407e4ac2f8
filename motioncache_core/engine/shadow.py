"""Blocks of a network that has no hook for them, behind stand-ins for the length of one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def is_shadowed(network: object, name: str) -> bool:
    """Whether something already hides a module's list of blocks."""
    return name in vars(network)


@contextmanager
def shadowed(network: object, name: str, stand_ins: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """The network finds these in the place of its blocks.

    A plain attribute is found before a registered module of its name, which stays as it is: state
    dict, device, low-rank weights and offloading see the blocks themselves.
    """
    # a module would register what looks like one of its own
    vars(network)[name] = list(stand_ins)
    try:
        yield
    finally:
        del vars(network)[name]
