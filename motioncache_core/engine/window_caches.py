"""The clips of a run: one, or one for each context window that the host cuts it into."""

from __future__ import annotations

from dataclasses import replace

from ..cache.kv_placement import CPU
from ..cache.memory_plan import MemoryPlan, residual_bytes
from ..common.errors import SettingsError
from ..common.protocols import TokenOps
from ..common.reasons import Reason, because
from ..common.token_layout import TokenLayout
from ..models.adapter import Adapter, ModelFacts
from ..policy.compute_budget import spread
from ..report.trace import Trace
from ..report.trace_recorder import PendingMaps
from ..sampling.model_call import BranchKey, ModelCall
from ..sampling.run_facts import ContextWindow, RunFacts
from ..settings import MotionCacheSettings
from .clip_cache import ClipCache

MOVED = "out of memory: moved to the host's memory"

# share of the device's free memory that the residuals of all context windows may take
_RESIDUAL_SHARE = 0.6


class WindowCaches:
    """Finds the states that a call goes on with. Nothing is shared between context windows but
    where their keys and values go; another network, size or place starts afresh.

    Args:
        reuse: False computes everything, as block-causal attention asks for.
    """

    def __init__(
        self,
        settings: MotionCacheSettings,
        ops: TokenOps,
        run: RunFacts,
        trace: Trace,
        maps: PendingMaps,
        reuse: bool,
    ) -> None:
        self._settings = (
            settings if reuse else replace(settings, forecast=0.0, kv_forecast=0.0, correction=0.0)
        )
        self._ops, self._run, self._trace, self._maps = ops, run, trace, maps
        self._reuse, self._keys = reuse, True
        self._clips: dict[tuple[ModelFacts, ContextWindow | None], ClipCache] = {}
        self._homes: dict[ModelFacts, MemoryPlan] = {}
        self._networks: dict[BranchKey, object] = {}
        self._fits: bool | None = None
        self.latest: ClipCache | None = None

    def decline_reason(self, adapter: Adapter, call: ModelCall) -> Reason | None:
        """Why a call in a context window has to pass through."""
        window = call.window
        if window is None:
            return None
        if window not in self._run.windows:
            return because("windows_other")
        if self._fits is None:
            self._fits = self._residuals_fit(adapter, call)
        if self._fits:
            return None
        return because("windows_no_room", windows=len(self._run.windows))

    def find(self, adapter: Adapter, call: ModelCall) -> ClipCache:
        """The clip of this call, made now if it is new.

        Raises:
            SettingsError: the settings do not fit a diffusion-forcing run.
            CacheShapeError: the latent is not a video.
        """
        self._hand_over(call)
        facts = adapter.facts(call.network)
        layout = self._layout(adapter.layout(facts, call.x), call)
        forcing, key = call.forcing, (facts, call.window)
        clip = self._clips.get(key)
        if clip is not None and forcing is not None and clip.follows(forcing, layout):
            clip.move_to(forcing, layout)
        elif clip is None or clip.layout != layout or forcing is not None:
            # another size or window: nothing that was stored fits
            if facts not in self._homes or call.window is None:
                self._homes[facts] = MemoryPlan(
                    self._settings, self._ops, self._run, facts, self._keys
                )
            self._clips.pop(key, None)
            clip = self._clips[key] = self._new(adapter, facts, layout, call)
        self.latest = clip
        return clip

    def _new(
        self, adapter: Adapter, facts: ModelFacts, layout: TokenLayout, call: ModelCall
    ) -> ClipCache:
        position = 0 if call.window is None else self._run.windows.index(call.window)
        settings, run = self._settings, self._run
        if self._reuse:
            settings, run = spread(settings, run)
        return ClipCache(
            settings, self._ops, run, self._trace, self._maps, adapter, facts, layout,
            self._homes[facts], reuse=self._reuse, forcing=call.forcing,
            position=position, label="" if call.window is None else f"window {position}",
        )  # fmt: skip

    def drop(self) -> None:
        """Keep nothing."""
        self.latest = None
        self._clips.clear()
        self._homes.clear()
        self._networks.clear()

    def give_up_kv(self) -> None:
        """Keep nothing, and no keys and values from now on."""
        self.drop()
        self._keys = False

    def observe_memory(self) -> None:
        """Tell the trace how much is held now, by all clips together."""
        clips, homes = list(self._clips.values()), list(self._homes.values())
        sizes = [clip.nbytes() for clip in clips]
        residual, kv, residual_host, kv_host, deciding = (
            sum(part) for part in zip(*sizes, strict=True)
        )
        trace = self._trace
        trace.residual_bytes = max(trace.residual_bytes, residual)
        trace.residual_host_bytes = max(trace.residual_host_bytes, residual_host)
        trace.kv_bytes = max(trace.kv_bytes, kv + sum(h.nbytes() for h in homes))
        trace.kv_host_bytes = max(trace.kv_host_bytes, kv_host)
        trace.deciding_bytes = max(trace.deciding_bytes, deciding)
        known = next((h for h in homes if h.reasons), None)
        if known is None:
            return
        trace.keep_kv_reasons(known.reasons)
        trace.residual_reason = known.residuals.reason
        if known.residuals.place != CPU and any(clip.residuals_moved for clip in clips):
            trace.residual_reason += f"; {MOVED}"

    def _hand_over(self, call: ModelCall) -> None:
        """A branch that another network served until now is another expert's from now on."""
        served = [self._networks.get(key, call.network) for key in call.branches]
        if any(network is not call.network for network in served):
            self.drop()
            self._trace.remark(because("network_changed"))
        self._networks.update(dict.fromkeys(call.branches, call.network))

    def _layout(self, layout: TokenLayout, call: ModelCall) -> TokenLayout:
        forcing = call.forcing
        chunks = self._run.chunks if forcing is None else forcing.iteration.chunks
        if chunks is not None:
            layout = TokenLayout(layout.frames, layout.height, layout.width, chunks)
        if self._settings.policy != "step":
            return layout
        if forcing is not None:
            raise SettingsError(
                "policy 'step' takes one decision for the whole clip, which chunks at noise "
                "levels of their own cannot share; use 'motion' or 'chunk'"
            )
        return layout.as_one_chunk()

    def _residuals_fit(self, adapter: Adapter, call: ModelCall) -> bool:
        """Whether the residuals of all windows do: there is no smaller state than those."""
        if self._run.free_memory is None:
            return True
        facts = adapter.facts(call.network)
        spatial = adapter.layout(facts, call.x).spatial
        frames = sum(window.length for window in self._run.windows)
        rows = call.samples * max(self._run.branches, len(call.branches)) * frames * spatial
        need = residual_bytes(self._settings, rows, facts.width, call.x.element_size())
        if self._run.make_room is not None and need > _RESIDUAL_SHARE * self._run.free_memory():
            self._run.make_room(int(need / _RESIDUAL_SHARE) + 1)
        return need <= _RESIDUAL_SHARE * self._run.free_memory()
