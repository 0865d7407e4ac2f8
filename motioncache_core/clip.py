"""Everything a run keeps for clips of one size: states, decisions, plans."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .adapters import Adapter, ModelFacts
from .call import ForcingCall, ModelCall, RunFacts
from .distance import DistanceMeasure
from .errors import CacheShapeError
from .evaluation import Evaluation, modulation_row
from .kv_store import KVStore, Placement, place, place_causal
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
from .recording import call_record
from .sampling import UNSTARTED
from .scope import Circumstances, Scope, advance, measure, records
from .settings import MotionCacheSettings
from .state import BranchKey, BranchRows, BranchTable
from .trace import EvaluationRecord, Trace

log = logging.getLogger(__name__)


class Clip:
    """States and decisions for one token layout. A new size makes a new one."""

    def __init__(
        self,
        settings: MotionCacheSettings,
        ops: TokenOps,
        run: RunFacts,
        trace: Trace,
        adapter: Adapter,
        facts: ModelFacts,
        layout: TokenLayout,
        *,
        reuse: bool = True,
        forcing: ForcingCall | None = None,
    ) -> None:
        self.layout, self.adapter, self.facts = layout, adapter, facts
        self._reuse, self._forcing = reuse, forcing
        self._settings, self._ops, self._run, self._trace = settings, ops, run, trace
        self._tables: dict[torch.device, BranchTable] = {}
        self._scopes: dict[tuple[torch.device, BranchKey], Scope] = {}
        self._placement: Placement | None = None
        self._pending: list[tuple[EvaluationRecord, Tensor | None, Tensor | None]] = []
        self._distance: DistanceMeasure = run.profile or adapter.distance(
            facts, layout, settings.clamp_distance
        )
        trace.model, trace.distance = adapter.name, self._distance.name
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
        for scope in self._scopes.values():
            scope.slide(rows, layout, forcing.sigmas[-1])
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
        table = self._tables.setdefault(x.device, BranchTable())
        state = table.find(call.branches, x)
        if self._placement is None:
            self._placement = self._place(x, call)
        if state is None:
            state = self._new_rows(call, x, self._placement.store)
            table.put(state)
        if call.forcing is not None:
            state.take_part(call.forcing.iteration.index)
        sigmas = self._sigmas(call)
        parts, scopes = [], []
        for rows, keys in self._groups(call):
            scope = self._scope(x.device, keys)
            if not scope.is_current(sigmas, keys[0]):
                tokens = x[rows][: call.samples]
                self._decide(scope, tokens, modulation_row(vec, rows.start), sigmas)
            scope.served.update(keys)
            if scope.plan is None:
                raise CacheShapeError("no decision was taken for this evaluation")
            scopes.append(scope)
            parts.append(Part(rows, scope.plan))
        if call.forcing is not None and call.causal:
            plan = self._causal_plan(call.forcing, parts, state, x)
        else:
            plan = call_plan(parts, state, x)
        if plan.note and (state.filled or call.causal):
            for scope in scopes:
                scope.computed_in_full()
        return plan, state

    def _causal_plan(
        self, forcing: ForcingCall, parts: list[Part], state: BranchRows, x: Tensor
    ) -> CallPlan:
        """Unstarted chunks have no rows to compute, and finished ones need theirs no more."""
        if state.kv is None:
            raise CacheShapeError("block-causal attention without a store for keys and values")
        note = ""
        if not state.filled or not state.kv.complete:
            state.kv = KVStore(self.facts.blocks)
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

    def observe(self, call: ModelCall, evaluation: Evaluation, out: Tensor, seconds: float) -> None:
        """Record the call, and read motion off it where the next evaluation will want it."""
        sizes = [table.nbytes() for table in self._tables.values()]
        trace = self._trace
        trace.residual_bytes = max(trace.residual_bytes, sum(s[0] for s in sizes))
        trace.kv_bytes = max(trace.kv_bytes, sum(s[1] for s in sizes))
        deciding = sum(scope.nbytes() for scope in self._scopes.values())
        trace.deciding_bytes = max(trace.deciding_bytes, deciding)
        groups = [(self._scope(call.x.device, k), rows, k) for rows, k in self._groups(call)]
        plan, record = evaluation.plan, groups[0][0].record
        if record is None:
            raise CacheShapeError("no decision was taken for this call")
        record.calls.append(call_record(call, plan, self.layout, evaluation.block_calls, seconds))
        if not any(scope.wants_maps(self._settings) for scope, _, _ in groups):
            return
        if not self._partial:
            return
        maps = self._ops.motion_map(self._motion_features(call, evaluation, out), None)
        for scope, rows, keys in groups:
            for i, key in enumerate(keys):
                start = rows.start + i * call.samples
                scope.maps[key] = maps[start : start + call.samples]

    def freeze(self) -> None:
        """Move what the trace still holds on the device to numbers on the CPU."""
        for record, weight, active in self._pending:
            if weight is not None:
                record.weight = (weight * 255).round().to(torch.uint8).cpu().numpy().copy()
            if active is not None:
                record.active = np.packbits(active.cpu().numpy().astype(bool))
        self._pending.clear()

    @property
    def _partial(self) -> bool:
        """Whether single tokens may be computed."""
        stored = self._placement is not None and self._placement.store
        return stored and self._settings.kv_cache != "off"

    def _decide(
        self, scope: Scope, tokens: Tensor, modulation: Tensor, sigmas: tuple[float, ...]
    ) -> None:
        forcing = self._forcing
        it = None if forcing is None else forcing.iteration
        scope.given = 0 if it is None else it.prefix
        given = Circumstances(
            self._run.last_sigma,
            self._run.end_sigma,
            self._partial,
            self._reuse,
            it,
            forcing is not None and forcing.block_causal,
        )
        distances = measure(scope, self._distance, tokens, modulation, sigmas, it)
        decisions = advance(scope, self._settings, distances, sigmas, self._ops, given)
        record = EvaluationRecord(
            len(self._trace.evaluations), max(sigmas), scope.label, records(scope, decisions)
        )
        if forcing is not None and it is not None:
            record.window, record.first_frame = it.window, it.start
            record.first_chunk = forcing.first_chunk
        self._trace.evaluations.append(record)
        scope.record = record
        weights = [c.weights for c in scope.chunks if c.weights is not None]
        motion = any(d.phase == "motion" for d in decisions) and len(weights) == len(scope.chunks)
        inverse = None if scope.plan is None else scope.plan.inverse
        self._pending.append(
            (
                record,
                torch.cat(weights) if motion else None,
                None if inverse is None else inverse[0] >= 0,
            )
        )
        if self._settings.verbose:
            log.info("MotionCache - %s", record)

    def _motion_features(self, call: ModelCall, evaluation: Evaluation, out: Tensor) -> Tensor:
        """Per-token features `(B, F, S, D)` whose change between frames is called motion."""
        if self._settings.motion_source == "features" and evaluation.output is not None:
            shape = (call.x.shape[0], self.layout.frames, self.layout.spatial, -1)
            return evaluation.output.reshape(shape).contiguous()
        sigma = call.timestep.float() / self.adapter.timestep_scale
        sigma = sigma.reshape(sigma.shape[0], 1, -1, 1, 1)
        x0 = call.x[:, : self.facts.out_channels].float() - sigma * out.float()
        return token_patches(x0, self.facts.patch).contiguous()

    def _new_rows(self, call: ModelCall, x: Tensor, store: bool) -> BranchRows:
        slope = torch.zeros_like(x) if self._settings.forecast > 0 else None
        kv = KVStore(self.facts.blocks) if store else None
        # rows of chunks that have not started are read before they are written
        residual = torch.zeros_like(x) if call.causal else torch.empty_like(x)
        return BranchRows(call.branches, call.samples, residual, slope, kv)

    def _place(self, x: Tensor, call: ModelCall) -> Placement:
        one_frame = self.layout.frames == 1 and self._settings.policy in ("motion", "random")
        if one_frame and not call.causal:
            reason = "one latent frame has no motion: it is reused or computed as a whole"
            self._trace.kv_reason = reason
            return Placement(False, 0, reason)
        branches = max(self._run.branches, len(call.branches))
        nbytes = 2 * self.facts.blocks * x[0].nbytes * call.samples * branches
        if call.causal:
            placement = place_causal(nbytes, self._run.free_memory)
            self._trace.kv_reason = placement.reason
            return placement
        placement = place(
            self._settings.kv_cache,
            nbytes,
            self._settings.policy,
            self._run.free_memory,
            len(self.layout.chunks),
        )
        self._trace.kv_reason = placement.reason
        return placement

    def _scope(self, device: torch.device, keys: Sequence[BranchKey]) -> Scope:
        separate = self._settings.cfg_mask == "separate"
        scope_key = (device, keys[0] if separate else None)
        if scope_key not in self._scopes:
            label = f"branch {len(self._scopes)}" if separate else "all branches"
            self._scopes[scope_key] = Scope.start(label, self.layout, device)
        return self._scopes[scope_key]

    def _groups(self, call: ModelCall) -> list[tuple[slice, tuple[BranchKey, ...]]]:
        """Batch rows and branches that follow one decision."""
        n = call.samples
        if self._settings.cfg_mask == "shared":
            return [(slice(0, n * len(call.branches)), call.branches)]
        return [(slice(i * n, (i + 1) * n), (key,)) for i, key in enumerate(call.branches)]

    def _sigmas(self, call: ModelCall) -> tuple[float, ...]:
        if call.forcing is not None:
            return call.forcing.sigmas
        levels = (call.timestep[0].float().reshape(-1) / self.adapter.timestep_scale).tolist()
        frames = self.layout.frames
        if len(levels) not in (1, frames):
            raise CacheShapeError(
                f"{len(levels)} timesteps for {frames} latent frames; give one or one each"
            )
        return tuple(levels * frames if len(levels) == 1 else levels)
