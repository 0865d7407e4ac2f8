"""One sampling run: takes the host's model calls, gives back what the model would have."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from .adapters import Adapter, find_adapter
from .call import ModelCall, RunFacts
from .clip import Clip
from .compiled import find_compiled
from .decider import PendingMaps
from .errors import SettingsError, UnsupportedModelError
from .evaluation import Evaluation
from .layout import TokenLayout
from .ops import TokenOps
from .settings import MotionCacheSettings
from .timing import Stopwatch
from .trace import CallRecord, Trace

# at this many steps or fewer warm-up and the last step leave nothing to reuse
FEW_STEPS = 8


class Session:
    """State of one run. Make one per run, call `close` in a `finally`.

    Args:
        ops: the kernels, or anything that implements `TokenOps`.
        trace: is filled while the run goes on, and finished by `close`.
        on_call: is given the trace after each call of the network, with the seconds of the calls
            that the device is done with.
    """

    def __init__(
        self,
        settings: MotionCacheSettings,
        ops: TokenOps,
        run: RunFacts,
        trace: Trace,
        on_call: Callable[[Trace], None] | None = None,
    ) -> None:
        self._settings, self._ops, self._run, self._trace = settings, ops, run, trace
        self._clip: Clip | None = None
        self._looked_at: object = None
        self._compiled: nn.Module | None = None
        self._maps = PendingMaps()
        self._watches: deque[tuple[CallRecord, Stopwatch]] = deque()
        self._reached, self._on_call = False, on_call
        self._started = time.perf_counter()
        steps = len(run.step_sigmas)
        if run.declined:
            trace.decline(run.declined)
        elif 0 < steps <= FEW_STEPS:
            trace.decline(
                f"{steps} sampling steps: with {FEW_STEPS} or fewer, warm-up and the last step "
                "leave nothing to reuse. Use more steps, or remove the node"
            )
        elif settings.reuse_threshold == 0:
            trace.decline("reuse_threshold is 0, which means never reuse")
        self._off = trace.reason

    def evaluate(self, call: ModelCall) -> Tensor:
        """Run the network, dense, in part or not at all; returns what it would return.

        Raises:
            CacheShapeError: the latent is not a video, or the model's tokens are not its grid's.
            SettingsError: the settings do not fit a diffusion-forcing run.
            UnsupportedModelError: no adapter knows the network.
        """
        adapter, declined = find_adapter(call.network)
        reason = self._run.declined or declined or decline_reason(adapter, call)
        if reason and call.causal:
            raise UnsupportedModelError(
                f"block-causal attention is not possible here: {reason}. Set attention to "
                "'bidirectional' in the diffusion-forcing sampler"
            )
        reason = self._off or reason
        if reason:
            self._trace.decline(reason)
        if reason and not call.causal:
            return self._pass_through(call)
        clip = self._clip_for(adapter, call)
        evaluation = Evaluation(
            lambda x, vec: clip.plan(call, x, vec),
            self._ops,
            clip.layout.tokens,
            clip.facts.blocks,
            adapter.attention_call,
            self._compiled_part(call.network),
        )
        options = evaluation.options(call.options, adapter.block_type)
        watch = Stopwatch(call.x.device)
        out = call.run(options)
        watch.stop()
        self._called(clip.observe(call, evaluation, out), watch)
        return out

    @property
    def reached(self) -> bool:
        """Whether the network was called through this session."""
        return self._reached

    def close(self) -> None:
        """Freeze the trace and drop every tensor."""
        self._clip = self._looked_at = self._compiled = None
        self._maps.freeze()
        # only now, as reading a watch waits for the device
        for record, watch in self._watches:
            record.seconds = watch.seconds()
        self._watches.clear()
        self._trace.seconds = time.perf_counter() - self._started
        self._trace.finished = True

    def _compiled_part(self, network: object) -> nn.Module | None:
        # a large network has thousands of modules to look through
        if self._looked_at is not network:
            self._looked_at, self._compiled = network, find_compiled(network)
        return self._compiled

    def _clip_for(self, adapter: Adapter, call: ModelCall) -> Clip:
        facts = adapter.facts(call.network)
        layout = adapter.layout(facts, call.x)
        forcing = call.forcing
        chunks = self._run.chunks if forcing is None else forcing.iteration.chunks
        if chunks is not None:
            layout = TokenLayout(layout.frames, layout.height, layout.width, chunks)
        if self._settings.policy == "step":
            if forcing is not None:
                raise SettingsError(
                    "policy 'step' takes one decision for the whole clip, which chunks at noise "
                    "levels of their own cannot share; use 'motion' or 'chunk'"
                )
            layout = layout.as_one_chunk()
        clip = self._clip
        if clip is not None and forcing is not None and clip.follows(forcing, layout):
            clip.move_to(forcing, layout)
        elif clip is None or clip.layout != layout or forcing is not None:
            # another size or window: nothing that was stored fits
            settings = replace(self._settings, forecast=0.0) if self._off else self._settings
            self._clip = clip = Clip(
                settings, self._ops, self._run, self._trace, self._maps, adapter, facts, layout,
                reuse=not self._off, forcing=forcing,
            )  # fmt: skip
        return clip

    def _pass_through(self, call: ModelCall) -> Tensor:
        watch = Stopwatch(call.x.device)
        out = call.run(dict(call.options))
        watch.stop()
        record = CallRecord("declined", len(call.branches), call.x.shape[0], self._trace.tokens)
        self._trace.declined_calls.append(record)
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
        self._on_call(self._trace)


def decline_reason(adapter: Adapter, call: ModelCall) -> str | None:
    """Why a call of a known network has to run untouched; None if it need not."""
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
