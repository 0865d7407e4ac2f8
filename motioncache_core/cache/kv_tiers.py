"""Where a run keeps keys and values: the tier of each block, and what to do without memory."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch

from ..common.reasons import Reason, because
from .kv_blocks.block import TierResources
from .kv_blocks.kinds import TIERS

log = logging.getLogger(__name__)

_ORDER = list(TIERS)
CAUSAL_NEED = (
    "Block-causal attention needs them: set window_frames or kv_keep in the diffusion-forcing "
    "sampler, or use a smaller video"
)


@dataclass(slots=True)
class KVTiers:
    """Shared by all branches of a clip on one device.

    Attributes:
        tiers: tier of each block, one of `TIERS`.
        required: whether the run cannot go on without, as under block-causal attention.
        usable: tiers that the device has.
        forecast: whether slopes of keys and values are kept. They are the first to go.
        need: who cannot do without, and what to do.
        lost: whether memory ran out in the last tier, and nothing is kept any more.
        notes: what had to be changed in mid-run.
    """

    shared: TierResources
    tiers: list[str]
    required: bool = False
    usable: tuple[str, ...] = tuple(_ORDER)
    forecast: bool = False
    need: str = CAUSAL_NEED
    lost: bool = False
    notes: list[Reason] = field(default_factory=list)

    def step_down(self, block: int) -> bool:
        """Memory ran out at a block: slopes go, or it and all behind it go one tier down.

        Returns:
            whether there is a tier left.

        Raises:
            torch.OutOfMemoryError: there is none, and it cannot be done without.
        """
        if self.forecast:
            self.forecast = False
            self._tell(because("kv_forecast_lost", block=block))
            return True
        at = _ORDER.index(self.tiers[block])
        below = [p for p in _ORDER[at + 1 :] if p in self.usable]
        if below:
            self.tiers[block:] = [max(p, below[0], key=_ORDER.index) for p in self.tiers[block:]]
            self._tell(because("kv_step_down", block=block, place=below[0]))
            return True
        if self.required:
            raise torch.OutOfMemoryError(
                f"keys and values: out of memory at block {block}, also in the last place "
                f"({self.tiers[block]}). {self.need}"
            )
        self.lost = True
        self._tell(because("kv_lost", block=block))
        return False

    def check_kept(self) -> bool:
        """True; raises where nothing is kept any more."""
        if self.lost:
            raise torch.OutOfMemoryError(
                "keys and values: out of memory in a partial evaluation. Set kv_cache to 'off' or "
                "'cpu', or use a smaller video"
            )
        return True

    def _tell(self, note: Reason) -> None:
        log.warning("MotionCache - keys and values: %s.", note)
        self.notes.append(note)
