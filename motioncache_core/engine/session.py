"""One sampling run: takes the host's model calls, gives back what the model would have."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..common.errors import UnsupportedModelError
from ..common.protocols import TokenOps
from ..common.reasons import Reason, because
from ..common.stopwatch import Stopwatch
from ..models.adapter import Adapter
from ..models.registry import find_adapter, takes_frame_levels
from ..policy.compute_budget import evaluations_left
from ..policy.map_exchange import MapExchange
from ..policy.run_context import RunContext
from ..report.trace import CallRecord, Trace
from ..report.trace_recorder import TraceRecorder
from ..sampling.model_call import ModelCall
from ..sampling.run_facts import RunFacts
from ..settings import MotionCacheSettings
from .answers.chunk_answers import ChunkAnswers, by_chunks
from .block_hooks import BlockHooks
from .compiled_blocks import find_compiled
from .limits import why_off
from .window_caches import WindowCaches

log = logging.getLogger(__name__)

# after as many calls in which the cache ran out of memory, the rest of a run goes without it
_PATIENCE = 2
SPENT = because("out_of_memory")


class Session:
    """State of one run. Make one per run, call `close` in a `finally`.

    Args:
        ops: the kernels, or anything that implements `TokenOps`.
        trace: is filled while the run goes on, and finished by `close`.
        on_call: is given the trace after each call of the network, with the seconds of the calls
            that the device is done with.
        exchange: takes and gives motion maps, where the branches are spread over devices.
    """

    def __init__(
        self,
        settings: MotionCacheSettings,
        ops: TokenOps,
        run: RunFacts,
        trace: Trace,
        on_call: Callable[[Trace], None] | None = None,
        exchange: MapExchange | None = None,
    ) -> None:
        self._run, self._recorder = run, TraceRecorder(trace, run)
        self._looked_at: object = None
        self._compiled: nn.Module | None = None
        self._watches: deque[tuple[CallRecord, Stopwatch]] = deque()
        self._reached, self._closed, self._on_call = False, False, on_call
        self._started, self._called_before, self._spent = time.perf_counter(), False, 0
        self._off = why_off(settings, run, self._recorder)
        self._answers: ChunkAnswers | None = None
        if settings.traits.answers and not self._off:
            self._answers = ChunkAnswers(settings, run, ops)
            settings, run = by_chunks(settings, run)
        if settings.compute_budget > 0 and not self._off:
            _check_budget(settings, run, self._recorder)
        self._context = RunContext(
            settings, ops, run, self._recorder, reuse=not self._off, exchange=exchange
        )
        self._clips = WindowCaches(self._context)

    def evaluate(self, call: ModelCall) -> Tensor:
        """Run the network, dense, in part or not at all; returns what it would return.

        Raises:
            CacheShapeError: the latent is not a video, or the model's tokens are not its grid's.
            SettingsError: the settings do not fit a diffusion-forcing run.
            UnsupportedModelError: no adapter knows the network.
        """
        if not self._called_before:
            # the host loads the model in between
            self._started, self._called_before = time.perf_counter(), True
        adapter, declined = find_adapter(call.network)
        if call.forcing is not None:
            # known from here on to take a noise level per frame
            takes_frame_levels(call.network)
        why = self._run.declined or declined or decline_reason(adapter, call)
        if not self._off:
            why = why or self._clips.decline_reason(adapter, call)
        if why and call.causal:
            raise UnsupportedModelError(
                f"block-causal attention is not possible here: {why}. Set attention to "
                "'bidirectional' in the diffusion-forcing sampler"
            )
        reason = self._off or why
        if reason:
            self._recorder.decline(reason)
        if reason and not call.causal:
            return self._pass_through(call)
        if self._spent >= _PATIENCE:
            return self._pass_through(call, SPENT)
        try:
            return self._cached(adapter, call)
        except torch.OutOfMemoryError:
            # block-causal attention is only in the engine
            if call.causal:
                raise
        # only now, as the traceback held what had been made
        self._clips.give_up_kv()
        self._spent += 1
        log.warning("MotionCache - %s.", SPENT)
        return self._pass_through(call, SPENT)

    def _cached(self, adapter: Adapter, call: ModelCall) -> Tensor:
        clip = self._clips.find(adapter, call)
        hooks = BlockHooks(
            lambda stream, around: clip.plan(call, stream, around),
            self._context.ops,
            clip.layout.tokens,
            adapter,
            clip.facts,
            self._compiled_part(call.network),
        )
        options = hooks.options(call.options)
        watch = Stopwatch(call.device)
        out = call.run(options)
        watch.stop()
        if self._closed:
            # another device's error has ended the run in the meantime
            self._drop()
            return out
        self._clips.observe_memory()
        self._called(clip.observe(call, hooks, out), watch)
        if self._answers is None or call.forcing is None:
            return out
        told = self._answers.finish(call, call.forcing, hooks.computed(clip.layout), out)
        self._recorder.answers(self._answers.nbytes())
        change = self._answers.change(call.forcing, clip.layout, clip.facts)
        if change is not None:
            self._recorder.weighed(self._recorder.trace.evaluations[-1], change)
        return told

    @property
    def reached(self) -> bool:
        """Whether the network was called through this session."""
        return self._reached

    def close(self) -> None:
        """Freeze the trace and drop every tensor."""
        self._closed = True
        self._drop()
        # only now, as reading a watch waits for the device
        for record, watch in self._watches:
            record.seconds = watch.seconds()
        self._watches.clear()
        self._recorder.finish(time.perf_counter() - self._started)

    def _drop(self) -> None:
        self._clips.drop()
        if self._answers is not None:
            self._answers.drop()
        self._looked_at = self._compiled = None
        self._recorder.freeze()

    def _compiled_part(self, network: object) -> nn.Module | None:
        # a large network has thousands of modules to look through
        if self._looked_at is not network:
            self._looked_at, self._compiled = network, find_compiled(network)
        return self._compiled

    def _pass_through(self, call: ModelCall, note: str = "") -> Tensor:
        watch = Stopwatch(call.device)
        out = call.run(dict(call.options))
        watch.stop()
        record = CallRecord("declined", len(call.branches), call.rows, self._recorder.trace.tokens)
        record.note = note
        self._recorder.passed_through(record)
        self._called(record, watch)
        return out

    def _called(self, record: CallRecord, watch: Stopwatch) -> None:
        self._reached = True
        self._watches.append((record, watch))
        if self._on_call is None:
            return
        while self._watches and self._watches[0][1].ready():
            done, stopped = self._watches.popleft()
            done.seconds = stopped.seconds()
        self._on_call(self._recorder.trace)


def decline_reason(adapter: Adapter, call: ModelCall) -> Reason | None:
    """Why a call of a known network has to run untouched; None if it need not."""
    options = call.options
    if options.get("context_window") is not None and call.window is None:
        return because("windows_unknown", kind="not over frames")
    for name in (*(run.hook for run in adapter.runs), "attn1_patch", "attn2_patch"):
        if options.get("patches", {}).get(name):
            return because("block_patch", name=name)
    rows, branches = call.rows, len(call.branches)
    if rows % branches:
        return because("uneven_batch", rows=rows, branches=branches)
    return adapter.decline(call.arguments, options)


def _check_budget(settings: MotionCacheSettings, run: RunFacts, recorder: TraceRecorder) -> None:
    free, enough = evaluations_left(settings, run)
    if free > 0 and enough <= 0:
        steps = len(set(run.step_sigmas))
        budget = settings.compute_budget
        recorder.remark(because("budget_spent", budget=budget, steps=steps, fixed=steps - free))
