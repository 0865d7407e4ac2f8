"""Who is calling: what the calls of one evaluation are told apart by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, slots=True)
class Pass:
    """The way of one conditioning through the model in an evaluation.

    Attributes:
        prompt: the conditioning.
        window: of the clip, where it is cut into windows.
        changed: what other nodes have changed for it, and who of them asks for it.
        place: its number among the passes of this evaluation that are alike in all else, from 1.
    """

    prompt: Hashable
    window: Hashable = None
    changed: Hashable = ()
    place: int = 1


def prompt_of(key: Hashable) -> Hashable:
    """The conditioning of a pass, which may be known by nothing else."""
    return key.prompt if isinstance(key, Pass) else key


def is_changed(key: Hashable) -> bool:
    """Whether another node has changed something for the pass."""
    return isinstance(key, Pass) and key.changed != ()


class PassNames:
    """Gives every pass of an evaluation a name of its own, the same one in every evaluation."""

    def __init__(self) -> None:
        self._seen: Counter[Hashable] = Counter()
        self._before: frozenset[Hashable] = frozenset()

    def begin(self) -> bool:
        """The next evaluation begins.

        Returns:
            whether none of the last one's passes had been there before it.
        """
        asked = frozenset(self._seen)
        strange = bool(asked) and bool(self._before) and not asked & self._before
        self._before = asked or self._before
        self._seen.clear()
        return strange

    def name(
        self, key: Hashable, shape: torch.Size, samples: int, device: torch.device
    ) -> Hashable:
        """The name of a pass that is called now.

        Args:
            key: what its node says of it.
            shape, samples, device: of its latents: a sample's shape, how many there are, where.
        """
        alike = key, shape, samples, device
        self._seen[alike] += 1
        place = self._seen[alike]
        return replace(key, place=place) if isinstance(key, Pass) else (key, place)
