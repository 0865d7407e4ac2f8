"""One decision about memory for everything that a run keeps at the same time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..common.phrases import phrase
from ..common.protocols import TokenOps
from ..common.reasons import because, prefixed
from ..common.token_layout import TokenLayout
from ..report.trace import PlannedKeys
from ..sampling.model_call import ModelCall
from ..sampling.run_facts import RunFacts
from ..settings import MotionCacheSettings
from .kv_blocks.block import TierResources
from .kv_bytes import GPU, KVBytes, usable
from .kv_placement import FreeMemory, Placement, choose_causal_placement, choose_placement, nothing
from .kv_tiers import KVTiers
from .residual_placement import ResidualPlacement, place_residuals, residual_tensors


def still(settings: MotionCacheSettings, frames: int) -> bool:
    """Whether there is no neighbouring frame to tell motion by."""
    return frames == 1 and settings.traits.per_token


class MemoryPlan:
    """Where keys, values and residuals live, on every device: for one clip, or for all context
    windows.

    The windows of a run are live together: their bytes are counted together, and where memory runs
    out in one of them, the others follow.

    Args:
        sites: attention calls whose keys are kept, of one model call.
        heads, key_width: attention heads, and channels of a key, all heads together.
        keys: False keeps no keys and values, after memory ran out.
        on_plan: is told what keys and values are going to take, once that is known.
    """

    def __init__(
        self,
        settings: MotionCacheSettings,
        ops: TokenOps,
        run: RunFacts,
        sites: int,
        heads: int,
        key_width: int,
        keys: bool = True,
        on_plan: Callable[[PlannedKeys], None] | None = None,
    ) -> None:
        self._settings, self._ops, self._run = settings, ops, run
        self._sites, self._heads, self._key_width = sites, heads, key_width
        self._keys, self._on_plan = keys, on_plan
        self._placement: Placement | None = None
        self.residuals = ResidualPlacement(GPU, 0, "")
        self.tiers: dict[torch.device, KVTiers] = {}

    def tiers_for(
        self, call: ModelCall, layout: TokenLayout, x: Tensor, around: int = 0
    ) -> KVTiers:
        """Where the keys and values of tokens `x` `(B, L, C)` go.

        Raises:
            SettingsError: the device cannot do what `kv_cache` asks for.
        """
        if self._placement is None:
            self._placement, self.residuals = self._place(call, layout, x, around)
            if self._on_plan is not None:
                self._on_plan(self._placement.planned(self._prompts(call)))
        if x.device not in self.tiers:
            shared = TierResources(self._heads, self._ops)
            tiers = usable(x.device, x.dtype)
            placement = self._placement
            self.tiers[x.device] = KVTiers(
                shared, list(placement.tiers), call.causal, tiers, placement.forecast
            )
        return self.tiers[x.device]

    @property
    def stored(self) -> bool:
        """Whether anything is kept."""
        return any(tiers.tiers and not tiers.lost for tiers in self.tiers.values())

    @property
    def reasons(self) -> list[str]:
        """Where keys and values are kept and why, and what was changed in mid-run."""
        if self._placement is None:
            return []
        notes = (note for tiers in self.tiers.values() for note in tiers.notes)
        return [self._placement.reason, *notes]

    def nbytes(self) -> int:
        """Bytes on the devices that belong to no clip."""
        return sum(tiers.shared.nbytes() for tiers in self.tiers.values())

    def _place(
        self, call: ModelCall, layout: TokenLayout, x: Tensor, around: int
    ) -> tuple[Placement, ResidualPlacement]:
        run, windows = self._run, self._run.windows
        frames = [w.length for w in windows] if call.window else [layout.frames]
        moving = [n * layout.spatial + around for n in frames if not still(self._settings, n)]
        rows = call.samples * self._prompts(call)
        heads, wanted = self._heads, self._settings.kv_forecast > 0
        need = KVBytes.of(x, self._sites, heads, self._key_width, rows, moving, wanted)
        tokens = rows * sum(frames) * layout.spatial
        nbytes = residual_bytes(self._settings, tokens, x.shape[2], x.element_size())
        if not moving and not call.causal:
            kv = nothing(because("kv_one_frame"))
        else:
            kv = self._place_kv(call, layout, need, nbytes if call.window else 0)
        if call.window:
            together = phrase("{n} context windows together: ", n=len(windows))
            kv = replace(kv, reason=prefixed(together, kv.reason))
        memory = (run.free_memory, run.free_host_memory, run.make_room)
        return kv, place_residuals(nbytes, need, kv, *memory)

    def _prompts(self, call: ModelCall) -> int:
        return max(self._run.branches, len(call.branches))

    def _place_kv(
        self, call: ModelCall, layout: TokenLayout, need: KVBytes, residuals: int
    ) -> Placement:
        run, kv_cache = self._run, self._settings.kv_cache
        if call.causal:
            return choose_causal_placement(
                kv_cache, need, run.free_memory, run.free_host_memory, run.make_room
            )
        if not self._keys:
            return nothing(because("out_of_memory"))
        return choose_placement(
            kv_cache,
            need,
            self._settings.policy,
            _less(run.free_memory, residuals),
            run.free_host_memory,
            _more(run.make_room, residuals),
            chunks=len(layout.chunks),
        )


def residual_bytes(settings: MotionCacheSettings, rows: int, width: int, size: int) -> int:
    """Bytes of the residuals (and slopes) of so many token rows.

    Args:
        size: bytes of a number.
    """
    return rows * width * size * residual_tensors(settings)


def _less(free: FreeMemory | None, kept: int) -> FreeMemory | None:
    return None if free is None else lambda: max(0, free() - kept)


def _more(make_room: Callable[[int], None] | None, kept: int) -> Callable[[int], None] | None:
    return None if make_room is None else lambda nbytes: make_room(nbytes + kept)
