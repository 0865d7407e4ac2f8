"""Blocks of a network that has no hook for them, behind stand-ins for the length of one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from ..models.block_stream import BlockRun, RowGather, Shadow, SideBlocks

BlockFunction = Callable[[dict[str, Any]], dict[str, Any]]
BlockPatch = Callable[[dict[str, Any], dict[str, BlockFunction]], dict[str, Any]]


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


def hidden(
    network: object,
    run: BlockRun,
    patches: Mapping[tuple[str, int], BlockPatch],
    gather: Callable[[], RowGather | None],
) -> AbstractContextManager[None]:
    """The network's blocks of a run are reached through these patches, as through a host's hook.

    Args:
        gather: the active rows of the call, once they are known.
    """
    assert run.shadow is not None
    blocks = enumerate(getattr(network, run.shadow.name))
    stand_ins = [
        partial(_patched, run.shadow, patches[(run.hook, i)], block, gather) for i, block in blocks
    ]
    return shadowed(network, run.shadow.name, stand_ins)


def _patched(
    shadow: Shadow,
    patch: BlockPatch,
    block: Callable[..., Any],
    gather: Callable[[], RowGather | None],
    *args: Any,
    **kwargs: Any,
) -> Any:
    def original(call: dict[str, Any]) -> dict[str, Any]:
        return shadow.call(block, call, gather())

    return shadow.answer(patch(shadow.bind(*args, **kwargs), {"original_block": original}))


def beside(
    network: object, side: SideBlocks, run: Callable[..., Any]
) -> AbstractContextManager[None]:
    """The network's blocks beside the stack are run by `run`, from number, block and what it is
    called with."""

    def stand_in(index: int, block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return run(side, index, block, args, kwargs)

    blocks = enumerate(getattr(network, side.name))
    return shadowed(network, side.name, [partial(stand_in, i, block) for i, block in blocks])
