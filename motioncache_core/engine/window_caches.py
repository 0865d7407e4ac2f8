"""The clips of a run: one, or one for each context window that the host cuts it into."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from ..cache.kv_bytes import CPU
from ..cache.memory_plan import MemoryPlan, residual_bytes
from ..common.errors import SettingsError
from ..common.phrases import phrase, together
from ..common.reasons import Reason, because
from ..common.token_layout import TokenLayout
from ..models.adapter import Adapter, ModelFacts
from ..policy.compute_budget import spread
from ..policy.run_context import RunContext
from ..sampling.model_call import BranchKey, ModelCall
from ..sampling.run_facts import ContextWindow
from .clip_cache import ClipCache

MOVED = phrase("out of memory: moved to the host's memory")

# of a call: its network, window and grid; the last is free under diffusion forcing, where it moves
ClipKey = tuple[ModelFacts, ContextWindow | None, TokenLayout | None]

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
        self._clips: dict[ClipKey, ClipCache] = {}
        # those of the evaluation that goes on; None where nobody says it begins
        self._called: set[ClipKey] | None = None
        # of a network and the grid of a clip, or of all windows
        self._memory: dict[tuple[ModelFacts, TokenLayout | None], MemoryPlan] = {}
        self._networks: dict[BranchKey, object] = {}
        self._fits: bool | None = None
        self._part: Hashable = None
        # frames that another node's code adds to a clip of this layout
        self._added: dict[TokenLayout, int] = {}
        self.latest: ClipCache | None = None
        # why single tokens are not told apart any more
        self.whole: Reason | None = None

    def lose_tokens(self, why: Reason) -> None:
        """Evaluations are whole from now on, and no keys and values are kept."""
        self.whole = why
        for clip in self._clips.values():
            clip.lose_tokens(why)

    def reframe(self, adapter: Adapter, call: ModelCall, rows: int) -> Reason | None:
        """Another node's code adds latent frames to the model's input, or takes some: the clip is
        what the blocks are given.

        Args:
            rows: tokens that the first block was given.

        Returns:
            what is told of it; None where they are no whole frames.
        """
        facts = adapter.facts(call.network)
        whole = adapter.layout(facts, adapter.video(call.x))
        layout = adapter.around(facts, whole, call.arguments).inner(whole)
        if call.forcing is not None or rows % layout.spatial or rows < layout.spatial:
            return None
        before, frames = self._layout(layout, call), rows // layout.spatial
        self._added[layout] = frames - layout.frames
        self._keep({key for key in self._clips if key[2] != before})
        who = ", ".join(call.behind) or phrase("another node")
        return because("frames_added", who=who, frames=frames, of=layout.frames)

    def begin(self) -> None:
        """The next evaluation begins: clips that the last one did not ask for are over."""
        if self._called:
            self._keep(self._called)
        self._called = set()
        for clip in self._clips.values():
            clip.begin()

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
            self._keep(set())
            self._part = call.part
        facts = adapter.facts(call.network)
        whole = adapter.layout(facts, adapter.video(call.x))
        around = adapter.around(facts, whole, call.arguments)
        layout = self._layout(around.inner(whole), call)
        forcing = call.forcing
        key = facts, call.window, None if forcing is not None else layout
        clip = self._clips.get(key)
        if clip is not None and forcing is not None and clip.follows(forcing, layout):
            clip.move_to(forcing, layout)
        elif clip is None or forcing is not None:
            # another size or window: nothing that was stored fits
            if self._called is None:
                self._keep({k for k in self._clips if k[:2] != key[:2]})
            self._clips.pop(key, None)
            place = _place(key)
            if place not in self._memory or call.window is None:
                c, sites = self._context, adapter.key_sites(facts)
                self._memory[place] = MemoryPlan(
                    c.settings, c.ops, c.run, sites, facts.heads, facts.key_width, self._keys,
                    c.recorder.planned,
                )  # fmt: skip
            memory = self._memory[place]
            clip = self._clips[key] = self._new(adapter, facts, layout, call, memory)
        if self._called is not None:
            self._called.add(key)
        clip.around = around
        self.latest = clip
        return clip

    def _keep(self, keys: set[ClipKey]) -> None:
        """Drop all clips but these, and the plans of those that none is left of."""
        self._clips = {key: c for key, c in self._clips.items() if key in keys}
        places = {_place(key) for key in self._clips}
        self._memory = {p: plan for p, plan in self._memory.items() if p in places}

    def _new(
        self,
        adapter: Adapter,
        facts: ModelFacts,
        layout: TokenLayout,
        call: ModelCall,
        memory: MemoryPlan,
    ) -> ClipCache:
        context, window = self._context, call.window
        position = 0 if window is None else context.run.windows.index(window)
        if context.reuse:
            settings, run = spread(context.settings, context.run)
            context = replace(context, settings=settings, run=run)
        if adapter.one_list:
            shared = replace(context.settings, cfg_mask="shared")
            context = replace(context, settings=shared)
        clip = ClipCache(
            context, adapter, facts, layout, memory,
            forcing=call.forcing, position=position,
            label="" if window is None else phrase("window {n}", n=position), shown=not self._clips,
        )  # fmt: skip
        if self._called is not None:
            clip.begin()
        if self.whole is not None:
            clip.lose_tokens(self.whole)
        return clip

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
            where = together("; ", [where, MOVED])
        recorder.placed(known.reasons, where)

    def _hand_over(self, call: ModelCall) -> None:
        """A branch that another network served until now is another expert's from now on."""
        served = [self._networks.get(key, call.network) for key in call.branches]
        if any(network is not call.network for network in served):
            self.drop()
            self._context.recorder.remark(because("network_changed"))
            self._context.recorder.reset("networks_alternate")
        self._networks.update(dict.fromkeys(call.branches, call.network))

    def _layout(self, layout: TokenLayout, call: ModelCall) -> TokenLayout:
        forcing = call.forcing
        if layout in self._added:
            frames = layout.frames + self._added[layout]
            return TokenLayout(frames, layout.height, layout.width)
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


def _place(key: ClipKey) -> tuple[ModelFacts, TokenLayout | None]:
    """Where the memory of a clip is planned: context windows share a plan."""
    facts, window, layout = key
    return facts, layout if window is None else None
