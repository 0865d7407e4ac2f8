"""One sampling run: takes the host's model calls, gives back what the model would have."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..common.errors import UnsupportedModelError
from ..common.protocols import TokenOps
from ..common.reasons import Reason, because
from ..common.stopwatch import Stopwatch
from ..models.adapter import Adapter
from ..models.registry import find_adapter, takes_frame_levels
from ..policy.map_exchange import MapExchange
from ..policy.run_context import RunContext
from ..report.trace import CallRecord, Trace
from ..report.trace_recorder import TraceRecorder
from ..sampling.model_call import ModelCall
from ..sampling.passes import PassNames
from ..sampling.run_facts import RunFacts
from ..settings import MotionCacheSettings
from .answers.chunk_answers import ChunkAnswers, by_chunks
from .block_hooks import BlockHooks
from .call_watches import CallWatches
from .clip_cache import ClipCache
from .compiled_blocks import find_compiled
from .hooked_call import run_hooked
from .limits import check_budget, decline_reason, tokens_lost, why_off
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
        self._run, self._recorder = run, TraceRecorder(trace, run, on_call)
        self._looked_at: object = None
        self._compiled: nn.Module | None = None
        self._watches = CallWatches()
        self._reached, self._closed, self._on_call = False, False, on_call
        self._started, self._called_before, self._spent = time.perf_counter(), False, 0
        self._off = why_off(settings, run, self._recorder)
        self._answers: ChunkAnswers | None = None
        if settings.traits.answers and not self._off:
            self._answers = ChunkAnswers(settings, run, ops)
            settings, run = by_chunks(settings, run)
        if settings.compute_budget > 0 and not self._off:
            check_budget(settings, run, self._recorder)
        self._context = RunContext(
            settings, ops, run, self._recorder, reuse=not self._off, exchange=exchange
        )
        self._clips = WindowCaches(self._context)
        self._names: PassNames | None = None

    def begin(self) -> None:
        """The sampler asks for its next evaluation. Where nobody says so, a branch that comes
        again begins one."""
        self._names = self._names or PassNames()
        if self._names.begin():
            self._recorder.reset("passes_new")
        self._recorder.begin()
        self._clips.begin()

    def evaluate(self, call: ModelCall) -> Tensor:
        """Run the network, dense, in part or not at all; returns what it would return.

        Raises:
            CacheShapeError: the latent is not a video, or the model's tokens are not its grid's.
            SettingsError: the settings do not fit a diffusion-forcing run.
            UnsupportedModelError: no adapter knows a network that is to denoise chunks.
        """
        if not self._called_before:
            # the host loads the model in between
            self._started, self._called_before = time.perf_counter(), True
        if call.forcing is not None:
            # known from here on to take a noise level per frame
            takes_frame_levels(call.network)
        try:
            adapter, declined = find_adapter(call.network)
        except UnsupportedModelError:
            # another node has put it in the place of the one that the run began with
            self._clips.drop()
            swapped = because("network_swapped", name=type(call.network).__name__)
            if not self._recorder.trace.evaluations:
                self._recorder.decline(swapped)
            return self._pass_through(call, swapped)
        adapter = adapter.of_call(call.network, call.options, call.arguments) or adapter
        why = self._run.declined or declined or decline_reason(adapter, call)
        if self._run.announced and self._names is None:
            why = why or because("guider_unknown")
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
        if call.whole:
            return self._pass_through(call, call.whole)
        if self._spent >= _PATIENCE:
            return self._pass_through(call, SPENT)
        foreign, call = self._foreign(call), self._named(call)
        if foreign is not None and self._whole is None and self._tells_tokens(call):
            self._lose_tokens(tokens_lost(foreign))
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

    def _foreign(self, call: ModelCall) -> Reason | None:
        """What other nodes do that needs whole evaluations."""
        names = self._names
        if names is not None and names.differ(call.branches):
            return call.foreign or because("answers_compared")
        return call.foreign

    def _named(self, call: ModelCall) -> ModelCall:
        """The call with passes that are told from all others of its evaluation."""
        names = self._names
        if names is None:
            return call
        parts = zip(call.branches, call.latents.split(call.samples), strict=True)
        named = replace(call, branches=tuple(names.name(key, x) for key, x in parts))
        if names.moved:
            self._recorder.remark(because("passes_alike"))
        return named

    def _cached(self, adapter: Adapter, call: ModelCall) -> Tensor:
        clip = self._clips.find(adapter, call)
        hooks = BlockHooks(
            lambda stream, around: clip.plan(call, stream, around),
            self._context.ops,
            clip.layout,
            adapter,
            clip.facts,
            call.network,
            clip.around,
            self._compiled_part(call.network),
            clip.callers,
        )
        watch = Stopwatch(call.device)
        out = run_hooked(hooks, call, self._run.stops)
        watch.stop()
        if isinstance(out, str):
            return self._instead(adapter, call, clip, hooks.rows.partial, out)
        if self._closed:
            # another device's error has ended the run in the meantime
            self._drop()
            return out
        self._clips.observe_memory()
        record = clip.observe(call, hooks, out)
        if hooks.rows.partial:
            record.note = record.note or call.partial_note
        self._called(record, watch)
        if self._answers is None or call.forcing is None:
            return out
        told = self._answers.finish(call, call.forcing, hooks.rows.computed(clip.layout), out)
        self._recorder.answers(self._answers.nbytes())
        change = self._answers.change(call.forcing, clip.layout, clip.facts)
        if change is not None:
            self._recorder.weighed(self._recorder.trace.evaluations[-1], change)
        return told

    def _instead(
        self, adapter: Adapter, call: ModelCall, clip: ClipCache, partial: bool, error: str
    ) -> Tensor:
        """A call that went wrong with the hooks in the network: in full, or without them."""
        lost = None if clip.got is None else self._clips.reframe(adapter, call, clip.got)
        if lost is None and partial and self._whole is None:
            lost = because("partial_failed", error=error)
        if lost is not None:
            self._lose_tokens(lost)
            clip.again()
            return self._cached(adapter, call)
        why = because("hooks_failed", error=error)
        # where it fails without us, it does so in its own words
        out = self._pass_through(call, why)
        self._off = why
        self._recorder.decline(why)
        self._clips.drop()
        log.warning("MotionCache - %s.", why)
        return out

    @property
    def _whole(self) -> Reason | None:
        """Why single tokens are not told apart any more."""
        return self._clips.whole

    def _tells_tokens(self, call: ModelCall) -> bool:
        """Whether a call may compute some of its rows, and can do without."""
        per_token = self._context.settings.traits.per_token or call.forcing is not None
        return per_token and not call.causal and self._context.reuse

    def _lose_tokens(self, why: Reason) -> None:
        self._clips.lose_tokens(why)
        self._recorder.remark(why)
        log.warning("MotionCache - %s.", why)

    @property
    def reached(self) -> bool:
        """Whether the network was called through this session."""
        return self._reached

    def close(self) -> None:
        """Freeze the trace and drop every tensor."""
        self._closed = True
        self._drop()
        # only now, as reading a watch waits for the device
        self._watches.read_all()
        self._recorder.finish(time.perf_counter() - self._started)

    def _drop(self) -> None:
        self._clips.drop()
        if self._names is not None:
            self._names.drop()
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
        self._watches.add(record, watch)
        if self._on_call is None:
            return
        self._watches.read_ready()
        self._on_call(self._recorder.trace)
