"""One sampling run of MAGI-1: takes the clip, evaluates it chunk by chunk, oldest first."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ...cache.kv_placement import Placement
from ...cache.kv_tiers import KVTiers
from ...common.decision_kinds import DENSE, PARTIAL, REUSE
from ...common.phrases import phrase
from ...common.protocols import TokenOps
from ...common.stopwatch import Stopwatch
from ...common.token_layout import TokenLayout
from ...models.magi1.chunk_call import ChunkCall
from ...models.magi1.chunk_keys import ChunkKeys
from ...models.magi1.network import PATCH
from ...models.magi1.options import CHUNK_FRAMES
from ...models.magi1.passes import ChunkEvaluation, ChunkPasses
from ...models.magi1.steps import ChunkSteps
from ...report.trace import EvaluationRecord, Trace
from ...report.trace_recorder import TraceRecorder
from ...sampling.run_facts import RunFacts
from ...sampling.schedule import ACTIVE, CLEAN
from ..call_watches import CallWatches
from ..retry_with_room import again_with_room
from .chunk_memory import chunk_tiers, chunks_kept
from .chunk_policy import ChunkChoice, ChunkPolicy
from .chunk_record import IterationCalls, active_rows, chunk_records, over_the_clip

# makes None where every chunk is computed
MakePolicy = Callable[[ChunkCall, ChunkSteps], ChunkPolicy | None]


class ChunkSession:
    """State of one run. Make one per run, call `close` in a `finally`.

    Args:
        ops: the kernels, or anything that implements `TokenOps`.
        kv_cache: where keys and values are kept, as in the settings.
        recorder: fills the run's trace, which `close` finishes.
        make_policy: of what decides which chunks are computed.
        on_call: is given the trace after each iteration.
    """

    def __init__(
        self,
        ops: TokenOps,
        run: RunFacts,
        kv_cache: str,
        recorder: TraceRecorder,
        make_policy: MakePolicy,
        on_call: Callable[[Trace], None] | None = None,
    ) -> None:
        self._ops, self._run, self._kv_cache = ops, run, kv_cache
        self._recorder, self._make_policy, self._on_call = recorder, make_policy, on_call
        self._state: _RunState | None = None
        self._watches = CallWatches()
        self._started = time.perf_counter()
        self.reached = False

    def evaluate(self, call: ChunkCall) -> Tensor:
        """What makes the latents clean when it is added to them, noise level times velocity,
        `(1, C, F, H, W)` fp32; 0 for frames that are not denoised.

        Raises:
            torch.OutOfMemoryError: there is no room for keys and values anywhere.
        """
        self.reached = True
        if self._state is None:
            self._state = self._begin(call)
        state, it = self._state, call.forcing.iteration
        active = {i: step.step for i, step in enumerate(it.steps) if step.role == ACTIVE}
        state.passes.begin(active, call)
        frames = it.chunk_frames()
        choices = state.decide(active, call)
        calls = IterationCalls(state.rows)
        shown = self._show_clean(call, state, calls)
        out = torch.zeros_like(call.x, dtype=torch.float32)
        for chunk, step in active.items():
            ends = (chunk == min(active), chunk == max(active))
            choice = choices[chunk]
            e = ChunkEvaluation(
                chunk, call.x[:, :, frames[chunk]], step, *ends, choice.rows, choice.sees
            )
            velocity = _velocity(state, e, choice, calls)
            out[:, :, frames[chunk]] = velocity * state.steps.sigmas[step]
        records = chunk_records(it, choices, shown, state.rows)
        self._record(call, state, choices, EvaluationRecord(
            it.index, call.forcing.level, phrase("all passes"), records, calls.records
        ), calls)  # fmt: skip
        return out

    def close(self) -> None:
        """Freeze the trace and drop every tensor."""
        if self._state is not None:
            self._state.drop()
            self._state = None
        self._recorder.freeze()
        # only now, as reading a watch waits for the device
        self._watches.read_all()
        self._recorder.finish(time.perf_counter() - self._started)

    def _begin(self, call: ChunkCall) -> _RunState:
        network, chunks = call.network, call.forcing.iteration.chunks
        config = network.config
        height, width = (size // PATCH for size in call.x.shape[3:])
        layout = TokenLayout(sum(chunks), height, width, chunks)
        steps, rows = ChunkSteps(call.options), CHUNK_FRAMES * layout.spatial
        kept = min(chunks_kept(call.options, call.distilled), len(chunks)) * rows
        prompts = 1 if call.distilled else 2
        tiers, placement = chunk_tiers(
            config, self._ops, self._run, self._kv_cache, kept, prompts, call.x.device,
            network.compute_dtype,
        )  # fmt: skip
        passes = ChunkPasses(
            steps, call.distilled, rows, lambda: ChunkKeys(config.blocks, tiers, rows)
        )
        self._recorder.model("MAGI-1", "", None, config.blocks, config.work)
        self._recorder.clip(layout)
        self._recorder.planned(placement.planned(prompts))
        return _RunState(steps, layout, rows, passes, self._make_policy(call, steps), tiers,
                         placement)  # fmt: skip

    def _show_clean(self, call: ChunkCall, state: _RunState, calls: IterationCalls) -> list[int]:
        """The finished chunks of this iteration; returns those that the network was shown."""
        it, shown = call.forcing.iteration, []
        for chunk, (frames, step) in enumerate(zip(it.chunk_frames(), it.steps, strict=True)):
            if step.role != CLEAN:
                continue
            given = frames.stop <= it.prefix
            if not given and not call.options.clean_pass:
                state.passes.keep_noisy(chunk)
                continue
            watch, x = Stopwatch(call.x.device), call.x[:, :, frames]
            again_with_room(
                partial(state.passes.show_clean, chunk, x, given), state.passes.make_room
            )
            watch.stop()
            work = state.passes.clean_work(given)
            calls.add(DENSE, work, work, watch, "")
            shown.append(chunk)
        return shown

    def _record(
        self,
        call: ChunkCall,
        state: _RunState,
        choices: Mapping[int, ChunkChoice],
        record: EvaluationRecord,
        calls: IterationCalls,
    ) -> None:
        recorder, policy = self._recorder, state.policy
        weights = {c: choice.weight for c, choice in choices.items() if choice.weight is not None}
        weight = over_the_clip(weights, state.layout)
        recorder.evaluation(record, weight, active_rows(record.chunks, choices, call.x.device))
        change = None if policy is None else over_the_clip(policy.changes(), state.layout)
        if change is not None:
            recorder.weighed(record, change)
        recorder.answers(0 if policy is None else policy.nbytes())
        kept, on_host = state.passes.nbytes()
        recorder.memory((0, kept + state.tiers.shared.nbytes(), 0, on_host, 0))
        recorder.placed([state.placement.reason, *state.tiers.notes], "")
        for made, watch in calls.watches:
            self._watches.add(made, watch)
        if self._on_call is None:
            return
        self._watches.read_ready()
        self._on_call(recorder.trace)


class _RunState:
    """What is known once the clip is."""

    def __init__(
        self,
        steps: ChunkSteps,
        layout: TokenLayout,
        rows: int,
        passes: ChunkPasses,
        policy: ChunkPolicy | None,
        tiers: KVTiers,
        placement: Placement,
    ) -> None:
        self.steps, self.layout, self.rows, self.passes = steps, layout, rows, passes
        self.policy, self.tiers, self.placement = policy, tiers, placement

    def decide(self, active: Mapping[int, int], call: ChunkCall) -> dict[int, ChunkChoice]:
        if self.policy is None:
            return {chunk: ChunkChoice() for chunk in active}
        return self.policy.decide(active, call)

    def drop(self) -> None:
        self.passes.drop()
        if self.policy is not None:
            self.policy.drop()


def _velocity(
    state: _RunState, e: ChunkEvaluation, choice: ChunkChoice, calls: IterationCalls
) -> Tensor:
    """The velocity to give the sampler, foretold or from the network."""
    needed = state.passes.work(replace(e, rows=None, sees=None))
    if choice.kind == REUSE and state.policy is not None:
        calls.add(REUSE, needed, (), None, "")
        return state.policy.told(e.chunk, e.step, e.x)
    watch = Stopwatch(e.x.device)
    # it may be broken off anywhere: it writes only what it writes again
    velocity = again_with_room(partial(state.passes.velocity, e), state.passes.make_room)
    watch.stop()
    kind = DENSE if e.rows is None else PARTIAL
    calls.add(kind, needed, state.passes.work(e), watch, "")
    if state.policy is None:
        return velocity
    return state.policy.took(e.chunk, e.step, e.x, velocity, choice)
