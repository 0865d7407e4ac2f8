"""One sampling run: ties settings, model, states, policy, kernels and trace together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .adapters import Adapter, ModelFacts, find_adapter
from .distance import DistanceMeasure
from .errors import CacheShapeError
from .evaluation import CallPlan, Evaluation, modulation_row
from .kv_store import KVStore, Placement, place
from .layout import TokenLayout
from .motion import token_patches
from .ops import TokenOps
from .policy import DENSE, PARTIAL, REUSE
from .scope import Part, Scope, active_rows, advance, inverse_rows, measure, records
from .settings import MotionCacheSettings
from .state import BranchKey, BranchRows, BranchTable
from .trace import CallRecord, EvaluationRecord, Trace

log = logging.getLogger(__name__)

# at this many steps or fewer warm-up and the last step leave nothing to reuse
FEW_STEPS = 8


@dataclass(frozen=True)
class ModelCall:
    """One call of the network, in the host's words.

    Attributes:
        network: the diffusion transformer.
        run: calls the network with the given options and returns its output.
        x: model input `(B, C, F, H, W)`; the noisy latent comes first in C.
        timestep: `(B,)` or one per latent frame `(B, F)`.
        branches: conditioning branches in batch order; B is a multiple of their number.
        options: the host's transformer options.
        arguments: the call's other keyword arguments.
    """

    network: object
    run: Callable[[dict[str, Any]], Tensor]
    x: Tensor
    timestep: Tensor
    branches: tuple[BranchKey, ...]
    options: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFacts:
    """What the host knows of a run before it starts.

    Attributes:
        sigmas: the noise schedule, where known; used to find the last evaluation.
        end_sigma: noise level at and below which everything is computed.
        branches: conditioning branches to expect, for the memory estimate.
        free_memory: free bytes on the model's device.
        profile: calibrated distance; wins over the adapter's choice.
        chunks: latent frames of each chunk; None makes the clip one chunk.
        declined: why the run passes through untouched, where it has to.
    """

    sigmas: Sequence[float] = ()
    end_sigma: float | None = None
    branches: int = 2
    free_memory: Callable[[], int] | None = None
    profile: DistanceMeasure | None = None
    chunks: tuple[int, ...] | None = None
    declined: str | None = None


class Session:
    """State of one run. Make one per run, call `close` in a `finally`."""

    def __init__(
        self, settings: MotionCacheSettings, ops: TokenOps, run: RunFacts, trace: Trace
    ) -> None:
        self.settings, self.ops, self.trace = settings, ops, trace
        self._run = run
        self._tables: dict[BranchKey, BranchTable] = {}
        self._scopes: dict[BranchKey, Scope] = {}
        self._adapter: Adapter | None = None
        self._facts: ModelFacts | None = None
        self._layout: TokenLayout | None = None
        self._distance: DistanceMeasure | None = None
        self._placement: Placement | None = None
        self._call: ModelCall | None = None
        self._pending: list[tuple[EvaluationRecord, Tensor | None, Tensor | None]] = []
        self._started = time.perf_counter()
        levels = sorted(s for s in run.sigmas if s > 0)
        self._last_sigma = levels[0] * (1 + 1e-4) if levels else None
        if run.declined:
            trace.decline(run.declined)
        elif 0 < len(levels) <= FEW_STEPS:
            trace.decline(
                f"{len(levels)} sampling steps: with {FEW_STEPS} or fewer, warm-up and the last "
                "step leave nothing to reuse. Use more steps, or remove the node"
            )
        elif settings.reuse_threshold == 0:
            trace.decline("reuse_threshold is 0, which means never reuse")
        self._off = bool(trace.reason)

    @property
    def tokens(self) -> int:
        """Token rows of the clip."""
        return self._known_layout().tokens

    def evaluate(self, call: ModelCall) -> Tensor:
        """Run the network, dense, in part or not at all; returns what it would return."""
        reason = None if self._off else self._decline_reason(call)
        if self._off or reason is not None:
            self.trace.decline(reason or self.trace.reason)
            return self._pass_through(call)
        self._prepare(call)
        adapter, facts = self._known_model()
        evaluation = Evaluation(self, facts.blocks, adapter.attention_call)
        options = evaluation.options(call.options, adapter.block_type)
        self._call, started = call, time.perf_counter()
        try:
            out = call.run(options)
        finally:
            self._call = None
        plan = evaluation.plan
        self._note(call, plan, evaluation, time.perf_counter() - started)
        self._observe(call, evaluation, out)
        return out

    def close(self) -> None:
        """Freeze the trace and drop every tensor."""
        for record, weight, active in self._pending:
            if weight is not None:
                record.weight = (weight * 255).round().to(torch.uint8).cpu().numpy()
            if active is not None:
                record.active = np.packbits(active.cpu().numpy().astype(bool))
        self._pending.clear()
        self._tables.clear()
        self._scopes.clear()
        self.trace.seconds = time.perf_counter() - self._started
        self.trace.finished = True

    def _pass_through(self, call: ModelCall) -> Tensor:
        started = time.perf_counter()
        out = call.run(dict(call.options))
        record = CallRecord("declined", len(call.branches), call.x.shape[0], self.trace.tokens)
        record.seconds = time.perf_counter() - started
        self.trace.declined_calls.append(record)
        return out

    def _decline_reason(self, call: ModelCall) -> str | None:
        adapter, why = find_adapter(call.network)
        if why is not None:
            return why
        options = call.options
        if options.get("context_window") is not None:
            return "context windows are in use, which are not supported yet"
        if options.get("multigpu_thread_device") is not None:
            return "the run is split over several GPUs, which is not supported yet"
        for name in ("double_block", "attn1_patch", "attn2_patch"):
            if options.get("patches", {}).get(name):
                return f"another node patches every block ({name}) and needs all tokens in order"
        if call.x.shape[0] % len(call.branches):
            return f"{call.x.shape[0]} batch rows cannot be shared by {len(call.branches)} branches"
        return adapter.decline_call(call.arguments, options)

    def _prepare(self, call: ModelCall) -> None:
        if self._adapter is None:
            self._adapter, _ = find_adapter(call.network)
            self._facts = self._adapter.facts(call.network)
        layout = self._adapter.layout(self._known_model()[1], call.x)
        if self._run.chunks is not None:
            layout = TokenLayout(layout.frames, layout.height, layout.width, self._run.chunks)
        if self.settings.policy == "step":
            layout = layout.as_one_chunk()
        if layout != self._layout:
            # another size in one run: nothing that was stored fits
            self._tables.clear()
            self._scopes.clear()
            self._layout, self._placement = layout, None
            self._describe(layout)

    def _describe(self, layout: TokenLayout) -> None:
        adapter, facts = self._known_model()
        self._distance = self._run.profile or adapter.distance(
            facts, layout, self.settings.clamp_distance
        )
        trace = self.trace
        trace.model, trace.distance = adapter.name, self._distance.name
        trace.grid, trace.chunks = (layout.frames, layout.height, layout.width), layout.chunks
        trace.blocks, trace.width, trace.ffn_width = facts.blocks, facts.width, facts.ffn_width

    def plan_call(self, x: Tensor, vec: Tensor) -> tuple[CallPlan, BranchRows]:
        """Decide for the call that has just reached its first block.

        Args:
            x: tokens `(B, L, C)`.
            vec: timestep modulation `(B, T, 6, C)` or `(B, 6, C)`.
        """
        call, layout = self._call, self._known_layout()
        if call is None or x.shape[1] != layout.tokens:
            raise CacheShapeError(
                f"the first block got {x.shape[1]} tokens; {layout.tokens} were expected from a "
                f"grid of {layout.frames}x{layout.height}x{layout.width}"
            )
        table = self._tables.setdefault(x.device, BranchTable())
        state = table.find(call.branches, x)
        samples = x.shape[0] // len(call.branches)
        if self._placement is None:
            self._placement = self._place(x, samples)
        if state is None:
            state = self._new_rows(call.branches, samples, x)
            table.put(state)
        sigmas = self._sigmas(call, layout)
        parts = []
        for rows, keys in self._scope_groups(call.branches, samples):
            scope = self._scope(x.device, keys)
            if not scope.is_current(sigmas, keys[0]):
                self._decide(scope, x[rows][:samples], modulation_row(vec, rows.start), sigmas)
            scope.served.update(keys)
            if scope.plan is None:
                raise CacheShapeError("no decision was taken for this evaluation")
            parts.append(Part(rows, scope.plan))
        return self._call_plan(parts, state, x), state

    def _call_plan(self, parts: list[Part], state: BranchRows, x: Tensor) -> CallPlan:
        kinds = {p.plan.kind for p in parts}
        note = ""
        if kinds != {DENSE} and not state.filled:
            note = "a new branch has nothing to reuse yet"
        elif kinds not in ({DENSE}, {REUSE}) and (state.kv is None or not state.kv.complete):
            note = "keys and values are incomplete"
        if note or kinds == {DENSE}:
            if state.kv is not None:
                state.kv.begin_dense()
            return CallPlan(DENSE, parts, None, x.shape[1], note)
        if kinds == {REUSE}:
            return CallPlan(REUSE, parts, None, 0)
        rows = active_rows(parts, x.shape[1], x.device)
        return CallPlan(PARTIAL, parts, rows, rows.shape[1])

    def _decide(
        self, scope: Scope, tokens: Tensor, modulation: Tensor, sigmas: tuple[float, ...]
    ) -> None:
        if self._distance is None or self._placement is None:
            raise CacheShapeError("the session was not prepared for this call")
        distances = measure(scope, self._distance, tokens, modulation, sigmas)
        decisions = advance(
            scope,
            self.settings,
            distances,
            sigmas,
            self.ops,
            last_sigma=self._last_sigma,
            end_sigma=self._run.end_sigma,
            allow_partial=self._placement.store,
        )
        record = EvaluationRecord(
            len(self.trace.evaluations), max(sigmas), scope.label, records(scope, decisions)
        )
        self.trace.evaluations.append(record)
        scope.record = record
        plan = scope.plan
        weights = [c.weights for c in scope.chunks]
        motion = any(d.phase == "motion" for d in decisions)
        weight = (
            torch.cat([w for w in weights if w is not None])
            if motion and all(w is not None for w in weights)
            else None
        )
        active = None if plan is None or plan.inverse is None else plan.inverse[0] >= 0
        self._pending.append((record, weight, active))
        if self.settings.verbose:
            log.info("%s", record)

    def reuse(self, plan: CallPlan, state: BranchRows, x: Tensor) -> Tensor:
        """`x + r` for all rows, with the forecast where there is one."""
        out = [
            self.ops.reuse_residual(
                x[p.rows],
                state.residual[p.rows],
                None if state.slope is None else state.slope[p.rows],
                p.plan.gain,
            )
            for p in plan.parts
        ]
        return out[0] if len(out) == 1 else torch.cat(out)

    def scatter(self, plan: CallPlan, state: BranchRows, x: Tensor, y: Tensor) -> Tensor:
        """Full-length output from the active rows' `y` `(B, n, C)`; updates what is stored."""
        out = []
        for p in plan.parts:
            forecast = p.plan.gain is not None and state.slope is not None
            out.append(
                self.ops.scatter_residual(
                    x[p.rows],
                    y[p.rows],
                    inverse_rows(p, x.shape[1], x.device),
                    state.residual[p.rows],
                    state.slope[p.rows] if forecast and state.slope is not None else None,
                    p.plan.gain if forecast else None,
                    p.plan.inverse_interval if forecast else None,
                )
            )
        return out[0] if len(out) == 1 else torch.cat(out)

    def store(self, plan: CallPlan, state: BranchRows | None, x: Tensor, y: Tensor) -> None:
        """Remember the residual of a full evaluation, and its slope."""
        if state is None:
            raise CacheShapeError("the call was not planned")
        if state.slope is not None and state.filled:
            residual = y - x
            for p in plan.parts:
                if p.plan.inverse_interval is not None:
                    change = residual[p.rows] - state.residual[p.rows]
                    factor = p.plan.inverse_interval[None, :, None].to(change.dtype)
                    state.slope[p.rows] = change * factor
            state.residual = residual
        else:
            torch.sub(y, x, out=state.residual)
        state.filled = True

    def _observe(self, call: ModelCall, evaluation: Evaluation, out: Tensor) -> None:
        layout, (adapter, facts) = self._known_layout(), self._known_model()
        sizes = [t.nbytes() for t in self._tables.values()]
        self.trace.residual_bytes = max(self.trace.residual_bytes, sum(s[0] for s in sizes))
        self.trace.kv_bytes = max(self.trace.kv_bytes, sum(s[1] for s in sizes))
        if self._placement is None or not self._placement.store:
            return
        samples = call.x.shape[0] // len(call.branches)
        groups = self._scope_groups(call.branches, samples)
        scopes = [self._scope(call.x.device, keys) for _, keys in groups]
        if not any(scope.wants_maps(self.settings) for scope in scopes):
            return
        if self.settings.motion_source == "features" and evaluation.output is not None:
            features = evaluation.output.reshape(call.x.shape[0], layout.frames, layout.spatial, -1)
        else:
            sigma = call.timestep.float() / adapter.timestep_scale
            sigma = sigma.reshape(sigma.shape[0], 1, -1, 1, 1)
            x0 = call.x[:, : facts.out_channels].float() - sigma * out.float()
            features = token_patches(x0, facts.patch)
        maps = self.ops.motion_map(features.contiguous(), None)
        for scope, (rows, keys) in zip(scopes, groups, strict=True):
            for i, key in enumerate(keys):
                start = rows.start + i * samples
                scope.maps[key] = maps[start : start + samples]

    def _note(
        self, call: ModelCall, plan: CallPlan, evaluation: Evaluation, seconds: float
    ) -> None:
        samples = call.x.shape[0] // len(call.branches)
        _, keys = self._scope_groups(call.branches, samples)[0]
        record = self._scope(call.x.device, keys).record
        if record is None:
            raise CacheShapeError("no decision was taken for this call")
        record.calls.append(
            CallRecord(
                plan.kind,
                len(call.branches),
                call.x.shape[0],
                plan.computed,
                evaluation.block_calls,
                seconds,
                plan.note,
            )
        )

    def _new_rows(self, keys: tuple[BranchKey, ...], samples: int, x: Tensor) -> BranchRows:
        slope = torch.zeros_like(x) if self.settings.forecast > 0 else None
        store = self._placement is not None and self._placement.store
        kv = KVStore(self._known_model()[1].blocks) if store else None
        return BranchRows(keys, samples, torch.empty_like(x), slope, kv)

    def _place(self, x: Tensor, samples: int) -> Placement:
        branches = max(self._run.branches, x.shape[0] // samples)
        per_row = 2 * self._known_model()[1].blocks * x[0].nbytes
        placement = place(
            self.settings.kv_cache,
            per_row * samples * branches,
            self.settings.policy,
            self._run.free_memory,
        )
        self.trace.kv_reason = placement.reason
        return placement

    def _scope(self, device: torch.device, keys: Sequence[BranchKey]) -> Scope:
        separate = self.settings.cfg_mask == "separate"
        scope_key = (device, keys[0] if separate else None)
        if scope_key not in self._scopes:
            label = f"branch {len(self._scopes)}" if separate else "all branches"
            self._scopes[scope_key] = Scope.start(label, self._known_layout(), device)
        return self._scopes[scope_key]

    def _scope_groups(
        self, branches: tuple[BranchKey, ...], samples: int
    ) -> list[tuple[slice, tuple[BranchKey, ...]]]:
        """Batch rows and branches that follow one decision."""
        if self.settings.cfg_mask == "shared":
            return [(slice(0, samples * len(branches)), branches)]
        return [(slice(i * samples, (i + 1) * samples), (key,)) for i, key in enumerate(branches)]

    def _sigmas(self, call: ModelCall, layout: TokenLayout) -> tuple[float, ...]:
        scale = self._known_model()[0].timestep_scale
        levels = (call.timestep[0].float().reshape(-1) / scale).tolist()
        if len(levels) not in (1, layout.frames):
            raise CacheShapeError(
                f"{len(levels)} timesteps for {layout.frames} latent frames; give one or one each"
            )
        return tuple(levels * layout.frames if len(levels) == 1 else levels)

    def _known_model(self) -> tuple[Adapter, ModelFacts]:
        if self._adapter is None or self._facts is None:
            raise CacheShapeError("the session has not seen a model yet")
        return self._adapter, self._facts

    def _known_layout(self) -> TokenLayout:
        if self._layout is None:
            raise CacheShapeError("the session has not seen a latent yet")
        return self._layout
