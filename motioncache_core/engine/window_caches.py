"""The clips of a run: one, or one for each context window that the host cuts it into."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from ..cache.kv_bytes import CPU
from ..cache.memory_plan import MemoryPlan, residual_bytes
from ..common.errors import SettingsError
from ..common.reasons import Reason, because
from ..common.token_layout import TokenLayout
from ..models.adapter import Adapter, ModelFacts
from ..policy.compute_budget import spread
from ..policy.run_context import RunContext
from ..sampling.model_call import BranchKey, ModelCall
from ..sampling.run_facts import ContextWindow
from .clip_cache import ClipCache

MOVED = "out of memory: moved to the host's memory"

# share of the device's free memory that the residuals of all context windows may take
_RESIDUAL_SHARE = 0.6


class WindowCaches:
    """Finds the states that a call goes on with. Nothing is shared between context windows but
    where their keys and values go; another network, size or place starts afresh.

    """

    def __init__(self, context: RunContext) -> None:
        if not context.reuse:
            bare = replace(context.settings, forecast=0.0, kv_forecast=0.0, correction=0.0)
            context = replace(context, settings=bare)
        self._context, self._keys = context, True
        self._clips: dict[tuple[ModelFacts, ContextWindow | None, int, int], ClipCache] = {}
        self._memory: dict[ModelFacts, MemoryPlan] = {}
        self._networks: dict[BranchKey, object] = {}
        self._fits: bool | None = None
        self._part: Hashable = None
        self.latest: ClipCache | None = None

    def decline_reason(self, adapter: Adapter, call: ModelCall) -> Reason | None:
        """Why a call in a context window has to pass through."""
        window = call.window
        if window is None:
            return None
        if window not in self._context.run.windows:
            return because("windows_other")
        if self._fits is None:
            self._fits = self._residuals_fit(adapter, call)
        if self._fits:
            return None
        return because("windows_no_room", windows=len(self._context.run.windows))

    def find(self, adapter: Adapter, call: ModelCall) -> ClipCache:
        """The clip of this call, made now if it is new.

        Raises:
            SettingsError: the settings do not fit a diffusion-forcing run.
            CacheShapeError: the latent is not a video.
        """
        self._hand_over(call)
        if call.part != self._part:
            self._clips.clear()
            self._part = call.part
        facts = adapter.facts(call.network)
        whole = adapter.layout(facts, adapter.video(call.x))
        around = adapter.around(facts, whole, call.arguments)
        layout = self._layout(around.inner(whole), call)
        # a branch whose first frame is a condition has another grid than one without
        forcing, key = call.forcing, (facts, call.window, around.first, around.last)
        clip = self._clips.get(key)
        if clip is not None and forcing is not None and clip.follows(forcing, layout):
            clip.move_to(forcing, layout)
        elif clip is None or clip.layout != layout or forcing is not None:
            # another size or window: nothing that was stored fits
            if facts not in self._memory or call.window is None:
                c, sites = self._context, adapter.key_sites(facts)
                self._memory[facts] = MemoryPlan(
                    c.settings, c.ops, c.run, sites, facts.heads, facts.key_width, self._keys
                )
            self._clips.pop(key, None)
            clip = self._clips[key] = self._new(adapter, facts, layout, call)
        clip.around = around
        self.latest = clip
        return clip

    def _new(
        self, adapter: Adapter, facts: ModelFacts, layout: TokenLayout, call: ModelCall
    ) -> ClipCache:
        context, window = self._context, call.window
        position = 0 if window is None else context.run.windows.index(window)
        if context.reuse:
            settings, run = spread(context.settings, context.run)
            context = replace(context, settings=settings, run=run)
        if adapter.one_list:
            shared = replace(context.settings, cfg_mask="shared")
            context = replace(context, settings=shared)
        return ClipCache(
            context, adapter, facts, layout, self._memory[facts],
            forcing=call.forcing, position=position,
            label="" if window is None else f"window {position}",
        )  # fmt: skip

    def drop(self) -> None:
        """Keep nothing."""
        self.latest = None
        self._clips.clear()
        self._memory.clear()
        self._networks.clear()

    def give_up_kv(self) -> None:
        """Keep nothing, and no keys and values from now on."""
        self.drop()
        self._keys = False

    def observe_memory(self) -> None:
        """Tell the trace how much is held now, by all clips together."""
        clips, plans = list(self._clips.values()), list(self._memory.values())
        sizes = [clip.nbytes() for clip in clips]
        residual, kv, residual_host, kv_host, deciding = (
            sum(part) for part in zip(*sizes, strict=True)
        )
        kv += sum(plan.nbytes() for plan in plans)
        recorder = self._context.recorder
        recorder.memory((residual, kv, residual_host, kv_host, deciding))
        known = next((plan for plan in plans if plan.reasons), None)
        if known is None:
            return
        where = known.residuals.reason
        if known.residuals.place != CPU and any(clip.residuals_moved for clip in clips):
            where += f"; {MOVED}"
        recorder.placed(known.reasons, where)

    def _hand_over(self, call: ModelCall) -> None:
        """A branch that another network served until now is another expert's from now on."""
        served = [self._networks.get(key, call.network) for key in call.branches]
        if any(network is not call.network for network in served):
            self.drop()
            self._context.recorder.remark(because("network_changed"))
        self._networks.update(dict.fromkeys(call.branches, call.network))

    def _layout(self, layout: TokenLayout, call: ModelCall) -> TokenLayout:
        forcing = call.forcing
        chunks = self._context.run.chunks if forcing is None else forcing.iteration.chunks
        if chunks is not None:
            layout = TokenLayout(layout.frames, layout.height, layout.width, chunks)
        if not self._context.settings.traits.one_chunk:
            return layout
        if forcing is not None:
            raise SettingsError(
                f"policy {self._context.settings.policy!r} takes one decision for the whole clip, "
                "which chunks at noise levels of their own cannot share; use 'motion' or 'chunk'"
            )
        return layout.as_one_chunk()

    def _residuals_fit(self, adapter: Adapter, call: ModelCall) -> bool:
        """Whether the residuals of all windows do: there is no smaller state than those."""
        run, settings = self._context.run, self._context.settings
        if run.free_memory is None:
            return True
        facts = adapter.facts(call.network)
        video = adapter.video(call.x)
        spatial = adapter.layout(facts, video).spatial
        frames = sum(window.length for window in run.windows)
        rows = call.samples * max(run.branches, len(call.branches)) * frames * spatial
        need = residual_bytes(settings, rows, facts.width, video.element_size())
        if run.make_room is not None and need > _RESIDUAL_SHARE * run.free_memory():
            run.make_room(int(need / _RESIDUAL_SHARE) + 1)
        return need <= _RESIDUAL_SHARE * run.free_memory()
