"""Who is calling: what the calls of one evaluation are told apart by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..common.host_transfer import read

# numbers that latents are known by
_SAMPLE = 4096
# cosine of latents to those of the evaluation before: they keep their noise from step to step, and
# other latents have other noise
_GOES_ON = 0.8
# evaluations that a pass may stay away
_AWAY = 8


@dataclass(frozen=True, slots=True)
class Pass:
    """The way of one conditioning through the model in an evaluation.

    Attributes:
        prompt: the conditioning.
        window: of the clip, where it is cut into windows.
        changed: what other nodes have changed for it, and who of them asks for it.
        place: its number among the passes of this evaluation that are alike in all else, from 1.
        start: the evaluation from which on its latents go on from one to the next.
    """

    prompt: Hashable
    window: Hashable = None
    changed: Hashable = ()
    place: int = 1
    start: int = 0


@dataclass(slots=True)
class _Met:
    """Where a pass's latents began, when they were last met, and a thin sample of them."""

    start: int
    evaluation: int
    sample: Tensor


def prompt_of(key: Hashable) -> Hashable:
    """The conditioning of a pass, which may be known by nothing else."""
    return key.prompt if isinstance(key, Pass) else key


class PassNames:
    """Gives every pass of an evaluation a name of its own, the same one in every evaluation.

    Passes that are alike are told apart by their order, as long as each one's latents go on where
    they were; a tile that moves is another pass each time.

    Attributes:
        moved: whether latents did not go on.
    """

    def __init__(self) -> None:
        self.moved = False
        self._evaluation = -1
        self._seen: Counter[Hashable] = Counter()
        self._before: Counter[Hashable] = Counter()
        self._ways: set[Hashable] = set()
        self._met: dict[Hashable, _Met] = {}

    def begin(self) -> bool:
        """The next evaluation begins.

        Returns:
            whether none of the last one's passes had been there before it.
        """
        self._evaluation += 1
        before, asked = set(self._before), set(self._seen)
        self._before, self._seen = self._seen, Counter()
        self._ways = set()
        self._met = {k: m for k, m in self._met.items() if m.evaluation + _AWAY > self._evaluation}
        return bool(before and asked) and not before & asked

    def differ(self, keys: Sequence[Hashable]) -> bool:
        """Whether another node has changed these passes in another way than others of this
        evaluation, as nodes do that compare their answers."""
        ways = {key.changed for key in keys if isinstance(key, Pass)}
        self._ways |= ways
        return len(self._ways) > 1

    def name(self, key: Hashable, x: Tensor) -> Hashable:
        """The name of a pass that is called now. Waits for the device where passes are alike.

        Args:
            key: what its node says of it.
            x: its noisy latents `(b, ...)`.
        """
        alike = key, x.shape, x.device
        self._seen[alike] += 1
        place = self._seen[alike]
        sample = x.flatten()[:: max(1, x.numel() // _SAMPLE)].float().clone()
        met, start = self._met.get((alike, place)), 0
        if met is not None:
            start = met.start
            alone = place == 1 and self._before[alike] < 2
            if not alone and not _goes_on(met.sample, sample):
                start, self.moved = self._evaluation, True
        self._met[(alike, place)] = _Met(start, self._evaluation, sample)
        if isinstance(key, Pass):
            return replace(key, place=place, start=start)
        return (key, place, start)

    @property
    def alike(self) -> bool:
        """Whether passes of this evaluation are alike, as those of tiles are."""
        return max(self._seen.values(), default=0) > 1

    def drop(self) -> None:
        """Keep nothing."""
        self._met.clear()


def _goes_on(before: Tensor, now: Tensor) -> bool:
    return read(torch.cosine_similarity(before, now, dim=0).reshape(1))[0] >= _GOES_ON
