"""How often a network was really run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

# a count this close to a whole number is one
_WHOLE = 1e-6


@dataclass
class Rows:
    """Token rows that went through blocks, prompts of a batch counted one by one."""

    seen: int = 0

    def evaluations(self, each: float) -> float:
        """How many evaluations these rows are, where one takes `each`."""
        count = self.seen / each
        return float(round(count)) if abs(count - round(count)) < _WHOLE else count


@contextmanager
def counted(blocks: Any, dry: bool = False) -> Iterator[Rows]:
    """Counts at the blocks' own code, below any forward that a cache may have put above them.

    It replaces `forward` in the blocks' classes, so that a call counts whether or not it comes
    through the module's hooks, and whichever object of the class it is made on.

    Args:
        dry: the blocks give back what they are given, without computing anything.
    """
    rows = Rows()
    kinds = {type(block) for block in blocks}
    patches = [
        mock.patch.object(kind, "forward", _counting(kind.forward, rows, dry)) for kind in kinds
    ]
    for patch in patches:
        patch.start()
    try:
        yield rows
    finally:
        for patch in patches:
            patch.stop()


def _counting(forward: Any, rows: Rows, dry: bool) -> Any:
    def counting(block: Any, *args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else kwargs["x"]
        rows.seen += x.shape[0] * x.shape[1]
        return x if dry else forward(block, *args, **kwargs)

    return counting
