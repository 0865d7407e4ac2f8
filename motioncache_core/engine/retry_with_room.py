"""Work that is done again when it ran out of memory, after what is stored has given some."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from ..cache.branches import BranchRows

T = TypeVar("T")


def retry_with_room(branches: BranchRows | None, work: Callable[[], T]) -> T:
    """What `work` returns; where it runs out of memory, once more after the branches have given
    some. It may have been broken off anywhere.

    Raises:
        torch.OutOfMemoryError: nothing is left to give.
    """
    if branches is None:
        return work()
    return again_with_room(work, branches.give_room, branches.has_room_to_give)


def again_with_room(
    work: Callable[[], T],
    make_room: Callable[[], bool],
    has_room: Callable[[], bool] = lambda: True,
) -> T:
    """The same of whatever can make room.

    Args:
        make_room: says whether there is more room now.
        has_room: whether it is worth asking.
    """
    while True:
        try:
            return work()
        except torch.OutOfMemoryError as error:
            if not has_room():
                raise
            # what had been made is held by the traceback until this clause ends
            message = str(error)
        if not make_room():
            raise torch.OutOfMemoryError(message)
