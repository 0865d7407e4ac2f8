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
    while True:
        try:
            return work()
        except torch.OutOfMemoryError as error:
            if branches is None or not branches.has_room_to_give():
                raise
            # what had been made is held by the traceback until this clause ends
            message = str(error)
        if not branches.give_room():
            raise torch.OutOfMemoryError(message)
