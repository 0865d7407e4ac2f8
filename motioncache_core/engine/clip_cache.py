"""Everything a run keeps for clips of one size: states, decisions, plans."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ..cache.branches import BranchRows, BranchTable
from ..cache.kv_store import KVStore
from ..cache.kv_tiers import KVTiers
from ..cache.memory_plan import MemoryPlan, still
from ..cache.residual_placement import new_residuals, residual_tensors
from ..common.decision_kinds import REUSE
from ..common.errors import CacheShapeError
from ..common.reasons import Reason, because
from ..common.token_layout import TokenLayout
from ..models.adapter import Adapter, Around, ModelFacts
from ..models.block_stream import BlockStream
from ..policy.decider import Decider, DecisionGroup
from ..policy.distance import advice
from ..policy.evaluation_plan import evaluation_plan
from ..policy.motion_weights import rate_of_change, token_patches
from ..policy.run_context import RunContext
from ..report.trace import CallRecord
from ..sampling.forcing_call import ForcingCall
from ..sampling.model_call import BranchKey, ModelCall
from ..sampling.schedule import UNSTARTED
from .attention import Caller
from .block_hooks import BlockHooks
from .call_plan import (
    CallPlan,
    Part,
    as_computed,
    call_plan,
    call_record,
    causal_call_plan,
    compression,
    kv_updates,
    row_updates,
)

log = logging.getLogger(__name__)


class ClipCache:
    """States and decisions for one token layout. A new size makes a new one.

    Args:
        memory: shared with the other context windows of the run.
        position: number of the context window.
        label: how the window is called in records; empty where the clip is not cut.
        shown: whether reports show this one's grid.

    Attributes:
        around: what stands around the video rows in the call that is being made.
    """

    def __init__(
        self,
        context: RunContext,
        adapter: Adapter,
        facts: ModelFacts,
        layout: TokenLayout,
        memory: MemoryPlan,
        *,
        forcing: ForcingCall | None = None,
        position: int = 0,
        label: str = "",
        shown: bool = True,
    ) -> None:
        self.layout, self.adapter, self.facts, self.around = layout, adapter, facts, Around()
        self._context, self._memory = context, memory
        self._settings, self._ops, self._recorder = context.settings, context.ops, context.recorder
        self._forcing, self._still = forcing, False
        # of the call that is being made
        self._groups: list[DecisionGroup] = []
        # rows that the first block was given, where they are not the grid's
        self.got: int | None = None
        # branches of the evaluation that goes on
        self._asked: set[BranchKey] = set()
        # why single tokens are not told apart any more
        self._whole: Reason | None = None
        # who calls the attention of each key site
        self.callers: dict[int, Caller] = {}
        self._tables: dict[torch.device, BranchTable] = {}
        clamp = context.settings.clamp_distance
        source = context.run.profile or adapter.distance(facts, layout, clamp)
        self._decider = Decider(context, source, adapter.timestep_scale, position, label)
        work, blocks = (facts.row_work, facts.pair_work), sum(facts.blocks)
        self._recorder.model(adapter.name, source.name, advice(source), blocks, work, facts.beside)
        if (shown and not label) or self._recorder.trace.grid is None:
            # of several windows the first one is shown
            self._recorder.clip(layout)

    def begin(self) -> None:
        """The sampler's next evaluation begins: branches that the last one did not ask for are
        over."""
        if self._asked:
            for table in self._tables.values():
                table.keep(self._asked)
        self._decider.begin(self._asked)
        self._asked = set()

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
            table.slide(rows, layout.tokens, forcing.options.kv_keep > 0)
        self.layout = layout
        self._recorder.clip(layout)

    def lose_tokens(self, why: Reason) -> None:
        """Evaluations are whole from now on, and no keys and values are kept."""
        self._whole = why
        for table in self._tables.values():
            table.forget_kv()

    def again(self) -> None:
        """The call that was planned last comes once more."""
        for g in self._groups:
            g.clip.served.difference_update(g.keys)

    def plan(
        self, call: ModelCall, stream: BlockStream, around: int
    ) -> tuple[CallPlan, BranchRows]:
        """Decide for the call that has just reached its first block.

        Args:
            stream: what enters it.
            around: rows around the video's in the keys of its attention.
        """
        x = stream.video
        if x.shape[1] != self.layout.tokens:
            self.got = x.shape[1]
            grid = f"{self.layout.frames}x{self.layout.height}x{self.layout.width}"
            raise CacheShapeError(
                f"the first block got {x.shape[1]} tokens; {self.layout.tokens} were expected "
                f"from a grid of {grid}"
            )
        table = self._tables.setdefault(x.device, BranchTable())
        tiers = self._memory.tiers_for(call, self.layout, x, around)
        self._still = not call.causal and still(self._settings, self.layout.frames)
        if tiers.lost:
            table.forget_kv()
        self._asked.update(call.branches)
        state = table.find(call.branches, x, around)
        if state is None:
            # before the new ones take room
            table.forget(call.branches)
            state = self._new_rows(call, x, tiers, around)
            table.put(state)
        groups = self._decider.decide(call, self.layout, x, stream.modulation, self._partial)
        self._groups = groups
        parts = []
        for g in groups:
            if g.clip.plan is None:
                raise CacheShapeError("no decision was taken for this evaluation")
            parts.append(Part(g.rows, g.clip.plan))
        if call.forcing is not None:
            index = call.forcing.iteration.index
            state.take_part(index, index - 1)
        elif self._settings.cfg_mask == "shared":
            # a decision of its own waits for a branch that is left out for a while
            now = groups[0].clip
            state.take_part(now.computed, now.computed - (parts[0].plan.kind != REUSE))
        if call.forcing is not None and call.causal:
            plan = self._causal_plan(call.forcing, parts, state, x)
        else:
            beside, keys = self.adapter.answers_beside, self._key_sites > 0
            plan = call_plan(parts, state, x, self._whole, beside, keys)
        if plan.note and (state.filled or call.causal):
            for g in groups:
                g.clip.computed_in_full()
        plan.updates = row_updates(plan, x.shape[1], x.device)
        if state.filled and state.kv is not None:
            plan.kv_updates = kv_updates(plan, x.shape[1], x.device)
        return plan, state

    def _causal_plan(
        self, forcing: ForcingCall, parts: list[Part], state: BranchRows, x: Tensor
    ) -> CallPlan:
        """Unstarted chunks have no rows to compute, and finished ones need theirs no more."""
        if state.kv is None:
            raise CacheShapeError("block-causal attention without a store for keys and values")
        note: str = ""
        if not state.filled or not state.kv.complete:
            state.kv = KVStore(self._key_sites, state.kv.tiers)
            present = as_computed(self.layout, forcing.iteration, UNSTARTED)
            plan = evaluation_plan(self.layout, present, self._ops, x.device)
            if any(p.plan.chunks != plan.chunks for p in parts):
                note = because("new_branch")
            # there is no residual to learn a slope from either
            parts = [Part(p.rows, plan.without_slope(p.plan.gain)) for p in parts]
        keep = forcing.options.kv_keep * forcing.options.chunk_frames * self.layout.spatial
        return causal_call_plan(
            parts,
            self.layout,
            x,
            compression=(
                compression(parts, self.layout, forcing.iteration, keep, self.facts.heads)
                if keep
                else None
            ),
            shift=state.kv.done(0).shift,
            note=note,
        )

    def observe(self, call: ModelCall, hooks: BlockHooks, out: Tensor) -> CallRecord:
        """Record the call, and take motion off it where the next evaluation will want it."""
        groups = self._groups
        plan, record = hooks.rows.plan, groups[0].clip.record
        if record is None:
            raise CacheShapeError("no decision was taken for this call")
        done = call_record(call, plan, self.layout, hooks.block_calls, hooks.rows.around)
        record.calls.append(done)
        if not self._partial or not any(g.clip.wants_maps(self._settings) for g in groups):
            return done
        maps = self._maps(call, hooks, out)
        if maps is None:
            return done
        for g in groups:
            for i, key in enumerate(g.keys):
                start = g.rows.start + i * call.samples
                g.clip.maps[key] = maps[start : start + call.samples]
            self._decider.left(g.clip)
        return done

    def nbytes(self) -> tuple[int, int, int, int, int]:
        """Bytes of residuals (and slopes) and of keys and values on the model's device, of both in
        the host's memory, and of everything kept for deciding."""
        sizes = [(0,) * 4, *(table.nbytes() for table in self._tables.values())]
        residual, kv, residual_host, kv_host = (sum(part) for part in zip(*sizes, strict=True))
        return residual, kv, residual_host, kv_host, self._decider.nbytes()

    @property
    def residuals_moved(self) -> bool:
        """Whether residuals are in the host's memory."""
        return any(table.on_host() for table in self._tables.values())

    @property
    def _key_sites(self) -> int:
        return self.adapter.key_sites(self.facts)

    @property
    def _partial(self) -> bool:
        """Whether single tokens may be computed."""
        stored = self._memory.stored or self._key_sites == 0
        kept = stored and self._settings.kv_cache != "off"
        return kept and not self._still and self._whole is None

    def _maps(self, call: ModelCall, hooks: BlockHooks, out: Tensor) -> Tensor | None:
        """What tells tokens apart, `(B, F, S)`; None where it is as it was."""
        if self._settings.motion_source != "residual":
            return self._ops.motion_map(self._motion_features(call, hooks, out))
        slope = hooks.rows.slope
        if hooks.rows.plan.kind == REUSE or slope is None:
            return None
        rates = rate_of_change(slope, (self.layout.frames, self.layout.spatial))
        # residuals may be in the host's memory
        return rates.to(call.device)

    def _motion_features(self, call: ModelCall, hooks: BlockHooks, out: Tensor) -> Tensor:
        """Per-token features `(B, F, S, D)` whose change between frames is called motion."""
        if self._settings.motion_source == "features" and hooks.rows.output is not None:
            shape = (call.rows, self.layout.frames, self.layout.spatial, -1)
            return hooks.rows.output.reshape(shape).contiguous()
        sigma = call.levels(self.adapter.timestep_scale).reshape(1, 1, -1, 1, 1)
        video = self.adapter.video(call.x)[:, : self.facts.out_channels]
        x0 = self.adapter.clean(video, sigma, self.adapter.video(out))
        patches = token_patches(x0, self.facts.patch)
        first = self.around.first
        return patches[:, first : first + self.layout.frames].contiguous()

    def _new_rows(self, call: ModelCall, x: Tensor, tiers: KVTiers, around: int) -> BranchRows:
        keeps = tiers.tiers and not tiers.lost and not self._still and self._whole is None
        kv = KVStore(self._key_sites, tiers) if keeps else None
        # rows of chunks that have not started are read before they are written
        count, place = residual_tensors(self._settings), self._memory.residuals.place
        held, device = new_residuals(count, x, place, zeros=call.causal)
        residual, slope = held[0], held[1] if len(held) > 1 else None
        return BranchRows(
            call.branches, call.samples, residual, slope, kv, device=device, around=around
        )
