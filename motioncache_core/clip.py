"""Everything a run keeps for clips of one size: states, decisions, plans."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from .adapters import Adapter, ModelFacts
from .call import ForcingCall, ModelCall, RunFacts
from .decider import Decider, PendingMaps
from .errors import CacheShapeError
from .evaluation import Evaluation
from .kv import Resources
from .kv_home import Home
from .kv_place import CPU, Need, Placement, nothing, place, place_causal, usable
from .kv_store import KVStore
from .layout import TokenLayout
from .motion import token_patches
from .ops import TokenOps
from .plan import (
    CallPlan,
    Part,
    as_computed,
    call_plan,
    causal_call_plan,
    compression,
    scope_plan,
)
from .policy import REUSE
from .recording import call_record
from .residual_place import ResidualPlacement, new_residuals, place_residuals
from .sampling import UNSTARTED
from .settings import MotionCacheSettings
from .state import BranchRows, BranchTable
from .trace import CallRecord, Trace

log = logging.getLogger(__name__)

MOVED = "out of memory: moved to the host's memory"


class Clip:
    """States and decisions for one token layout. A new size makes a new one."""

    def __init__(
        self,
        settings: MotionCacheSettings,
        ops: TokenOps,
        run: RunFacts,
        trace: Trace,
        maps: PendingMaps,
        adapter: Adapter,
        facts: ModelFacts,
        layout: TokenLayout,
        *,
        reuse: bool = True,
        forcing: ForcingCall | None = None,
    ) -> None:
        self.layout, self.adapter, self.facts = layout, adapter, facts
        self._forcing = forcing
        self._settings, self._ops, self._run, self._trace = settings, ops, run, trace
        self._tables: dict[torch.device, BranchTable] = {}
        self._placement: Placement | None = None
        self._residuals: ResidualPlacement | None = None
        self._homes: dict[torch.device, Home] = {}
        source = run.profile or adapter.distance(facts, layout, settings.clamp_distance)
        self._decider = Decider(
            settings, ops, run, trace, maps, source, adapter.timestep_scale, reuse
        )
        trace.model, trace.distance = adapter.name, source.name
        trace.show(layout)
        trace.blocks, trace.width, trace.ffn_width = facts.blocks, facts.width, facts.ffn_width

    def follows(self, forcing: ForcingCall, layout: TokenLayout) -> bool:
        """Whether the call goes on with what is stored here."""
        same_grid = (layout.height, layout.width) == (self.layout.height, self.layout.width)
        mine = self._forcing
        return mine is not None and same_grid and mine.iteration.window == forcing.iteration.window

    def move_to(self, forcing: ForcingCall, layout: TokenLayout) -> None:
        """The next call of the same window, which may have moved on by whole chunks."""
        before, self._forcing = self._forcing, forcing
        moved = 0 if before is None else forcing.iteration.start - before.iteration.start
        if moved == 0:
            return
        rows = moved * self.layout.spatial
        self._decider.slide(rows, layout, forcing.sigmas[-1])
        for table in self._tables.values():
            table.slide(rows, layout.tokens, forcing.kv_keep > 0)
        self.layout = layout
        self._trace.show(layout)

    def plan(self, call: ModelCall, x: Tensor, vec: Tensor) -> tuple[CallPlan, BranchRows]:
        """Decide for the call that has just reached its first block.

        Args:
            x: tokens `(B, L, C)`.
            vec: timestep modulation `(B, T, 6, C)` or `(B, 6, C)`.
        """
        if x.shape[1] != self.layout.tokens:
            grid = f"{self.layout.frames}x{self.layout.height}x{self.layout.width}"
            raise CacheShapeError(
                f"the first block got {x.shape[1]} tokens; {self.layout.tokens} were expected "
                f"from a grid of {grid}"
            )
        if self._placement is None or self._residuals is None:
            self._placement, self._residuals = self._place(x, call)
            self._trace.kv_reason = self._placement.reason
            self._trace.residual_reason = self._residuals.reason
        table = self._tables.setdefault(x.device, BranchTable())
        home = self._home(self._placement, x, call.causal)
        if home.lost:
            table.forget_kv()
        state = table.find(call.branches, x)
        if state is None:
            state = self._new_rows(call, x, home, self._residuals.place)
            table.put(state)
        groups = self._decider.decide(call, self.layout, x, vec, self._partial)
        parts = []
        for g in groups:
            if g.scope.plan is None:
                raise CacheShapeError("no decision was taken for this evaluation")
            parts.append(Part(g.rows, g.scope.plan))
        if call.forcing is not None:
            index = call.forcing.iteration.index
            state.take_part(index, index - 1)
        elif self._settings.cfg_mask == "shared":
            # a decision of its own waits for a branch that is left out for a while
            now = groups[0].scope
            state.take_part(now.computed, now.computed - (parts[0].plan.kind != REUSE))
        if call.forcing is not None and call.causal:
            plan = self._causal_plan(call.forcing, parts, state, x)
        else:
            plan = call_plan(parts, state, x)
        if plan.note and (state.filled or call.causal):
            for g in groups:
                g.scope.computed_in_full()
        return plan, state

    def _causal_plan(
        self, forcing: ForcingCall, parts: list[Part], state: BranchRows, x: Tensor
    ) -> CallPlan:
        """Unstarted chunks have no rows to compute, and finished ones need theirs no more."""
        if state.kv is None:
            raise CacheShapeError("block-causal attention without a store for keys and values")
        note = ""
        if not state.filled or not state.kv.complete:
            state.kv = KVStore(self.facts.blocks, state.kv.home)
            present = as_computed(self.layout, forcing.iteration, UNSTARTED)
            plan = scope_plan(self.layout, present, self._ops, x.device)
            if any(p.plan.chunks != plan.chunks for p in parts):
                note = "a new branch has nothing stored yet"
            # there is no residual to learn a slope from either
            parts = [Part(p.rows, plan.without_slope(p.plan.gain)) for p in parts]
        keep = forcing.kv_keep * forcing.chunk_frames * self.layout.spatial
        return causal_call_plan(
            parts,
            self.layout,
            x,
            compression=(
                compression(parts, self.layout, forcing.iteration, keep, self.facts.heads)
                if keep
                else None
            ),
            shift=state.kv.shift(0),
            note=note,
        )

    def observe(self, call: ModelCall, evaluation: Evaluation, out: Tensor) -> CallRecord:
        """Record the call, and take motion off it where the next evaluation will want it."""
        self._observe_memory()
        groups = self._decider.groups(call, self.layout)
        plan, record = evaluation.plan, groups[0].scope.record
        if record is None:
            raise CacheShapeError("no decision was taken for this call")
        done = call_record(call, plan, self.layout, evaluation.block_calls)
        record.calls.append(done)
        if not self._partial or not any(g.scope.wants_maps(self._settings) for g in groups):
            return done
        maps = self._ops.motion_map(self._motion_features(call, evaluation, out), None)
        for g in groups:
            for i, key in enumerate(g.keys):
                start = g.rows.start + i * call.samples
                g.scope.maps[key] = maps[start : start + call.samples]
        return done

    def _observe_memory(self) -> None:
        tables = list(self._tables.values())
        residual, kv, residual_host, kv_host = (
            sum(sizes) for sizes in zip((0,) * 4, *(t.nbytes() for t in tables), strict=True)
        )
        kv += sum(home.shared.transfers.nbytes() for home in self._homes.values())
        trace = self._trace
        trace.residual_bytes = max(trace.residual_bytes, residual)
        trace.residual_host_bytes = max(trace.residual_host_bytes, residual_host)
        trace.kv_bytes = max(trace.kv_bytes, kv)
        trace.kv_host_bytes = max(trace.kv_host_bytes, kv_host)
        trace.deciding_bytes = max(trace.deciding_bytes, self._decider.nbytes())
        if self._placement is None or self._residuals is None:
            return
        notes = (note for home in self._homes.values() for note in home.notes)
        trace.kv_reason = "; ".join([self._placement.reason, *notes])
        if self._residuals.place != CPU and any(t.on_host() for t in tables):
            trace.residual_reason = f"{self._residuals.reason}; {MOVED}"

    @property
    def _partial(self) -> bool:
        """Whether single tokens may be computed."""
        stored = any(home.places and not home.lost for home in self._homes.values())
        return stored and self._settings.kv_cache != "off"

    def _motion_features(self, call: ModelCall, evaluation: Evaluation, out: Tensor) -> Tensor:
        """Per-token features `(B, F, S, D)` whose change between frames is called motion."""
        if self._settings.motion_source == "features" and evaluation.output is not None:
            shape = (call.x.shape[0], self.layout.frames, self.layout.spatial, -1)
            return evaluation.output.reshape(shape).contiguous()
        sigma = call.timestep.float() / self.adapter.timestep_scale
        sigma = sigma.reshape(sigma.shape[0], 1, -1, 1, 1)
        x0 = call.x[:, : self.facts.out_channels].float() - sigma * out.float()
        return token_patches(x0, self.facts.patch).contiguous()

    def _new_rows(self, call: ModelCall, x: Tensor, home: Home, place: str) -> BranchRows:
        kv = KVStore(self.facts.blocks, home) if home.places and not home.lost else None
        # rows of chunks that have not started are read before they are written
        held, device = new_residuals(self._residual_tensors, x, place, zeros=call.causal)
        residual, slope = held[0], held[1] if len(held) > 1 else None
        return BranchRows(call.branches, call.samples, residual, slope, kv, device=device)

    @property
    def _residual_tensors(self) -> int:
        """Residual and, where there is a forecast, slope."""
        return 2 if self._settings.forecast > 0 else 1

    def _home(self, placement: Placement, x: Tensor, causal: bool) -> Home:
        if x.device not in self._homes:
            shared = Resources(self.facts.heads, self._ops)
            places = usable(x.device, x.dtype)
            self._homes[x.device] = Home(shared, list(placement.places), causal, places)
        return self._homes[x.device]

    def _place(self, x: Tensor, call: ModelCall) -> tuple[Placement, ResidualPlacement]:
        rows = call.samples * max(self._run.branches, len(call.branches))
        need = Need.of(x, self.facts.blocks, self.facts.heads, rows)
        run = self._run
        memory = (run.free_memory, run.free_host_memory, run.make_room)
        kv = self._place_kv(need, call.causal, memory)
        nbytes = self._residual_tensors * rows * x[0].nbytes
        return kv, place_residuals(nbytes, need, kv, *memory)

    def _place_kv(self, need: Need, causal: bool, memory: tuple[Any, ...]) -> Placement:
        kv_cache, policy = self._settings.kv_cache, self._settings.policy
        if causal:
            return place_causal(kv_cache, need, *memory)
        if self.layout.frames == 1 and policy in ("motion", "random"):
            return nothing("one latent frame has no motion: it is reused or computed as a whole")
        return place(kv_cache, need, policy, *memory, chunks=len(self.layout.chunks))
