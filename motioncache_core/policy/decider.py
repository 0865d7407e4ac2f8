"""Who decides in a clip, and the one time in an evaluation that the host waits for the device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.errors import CacheShapeError
from ..common.host_transfer import joined, read, upload
from ..common.phrases import phrase, together
from ..common.protocols import DistanceMeasure, DistanceSource
from ..common.token_layout import TokenLayout
from ..report.trace import EvaluationRecord
from ..sampling.forcing_call import ForcingCall
from ..sampling.model_call import BranchKey, ModelCall
from ..sampling.passes import prompt_of
from .chunk_decision import Decision
from .clip_decision import advance, measure, prepare, records
from .clip_state import ClipState
from .contents import Contents
from .run_context import RunContext

log = logging.getLogger(__name__)

Modulation = Callable[[int], Tensor]


@dataclass(frozen=True, slots=True)
class DecisionGroup:
    """Batch rows and branches of a call that follow one decision."""

    clip: ClipState
    rows: slice
    keys: tuple[BranchKey, ...]


class Decider:
    """The decision states of a clip, and the records of what was decided.

    Args:
        timestep_scale: timestep at sigma 1.
        position, label: of the context window, for the records.
    """

    def __init__(
        self,
        context: RunContext,
        source: DistanceSource,
        timestep_scale: float,
        position: int = 0,
        label: str = "",
    ) -> None:
        self._context, self._source, self._scale = context, source, timestep_scale
        self._position, self._label = position, label
        self._measures: dict[torch.device, DistanceMeasure] = {}
        self._clips: dict[tuple[torch.device, BranchKey, int], ClipState] = {}
        # number of the sampler's evaluation, and what its passes look at; None where nobody says
        self._evaluation: int | None = None
        self._contents = Contents()
        self._read: tuple[Tensor, int | None, tuple[float, ...]] | None = None
        exchange, self._shared = context.exchange, context.settings.cfg_mask == "shared"
        self._maps = exchange.device_maps() if exchange is not None and self._shared else None

    def begin(self, asked: Collection[BranchKey] = ()) -> None:
        """The sampler's next evaluation begins.

        Args:
            asked: branches of the last one; none where it had none. Others are over.
        """
        self._evaluation = 0 if self._evaluation is None else self._evaluation + 1
        self._contents.begin()
        if asked and not self._shared:
            prompts = {prompt_of(key) for key in asked}
            self._clips = {place: c for place, c in self._clips.items() if place[1] in prompts}

    def groups(self, call: ModelCall, layout: TokenLayout, x: Tensor) -> list[DecisionGroup]:
        """The call's parts, with the states that decide for them.

        Args:
            x: video tokens `(B, L, C)` before the first block.
        """
        n = call.samples
        if self._shared:
            parts = [(slice(0, n * len(call.branches)), call.branches)]
        else:
            parts = [(slice(i * n, (i + 1) * n), (key,)) for i, key in enumerate(call.branches)]
        device = call.device
        return [
            DecisionGroup(self._clip(device, keys, layout, x[rows][:n]), rows, keys)
            for rows, keys in parts
        ]

    def decide(
        self,
        call: ModelCall,
        layout: TokenLayout,
        x: Tensor,
        modulation: Modulation | None,
        allow_partial: bool,
    ) -> list[DecisionGroup]:
        """Make the plans of an evaluation when its first call reaches the first block.

        All that the host has to know is read together, the noise level included.

        Args:
            x: video tokens `(B, L, C)`.
            modulation: timestep modulation `(T, 6, C)` of a batch row, where there is one.
        """
        groups, evaluation = self.groups(call, layout, x), self._evaluation
        levels, sigmas = self._levels(call, x.device, layout.frames)
        if sigmas is None and any(g.clip.may_be_current(g.keys[0], evaluation) for g in groups):
            sigmas = self._remember(call, tuple(read(levels)))
        known = None if sigmas is None else _per_frame(sigmas, layout.frames)
        deciding = [
            g
            for g in groups
            if known is None or not g.clip.is_current(known, g.keys[0], evaluation)
        ]
        if deciding:
            context, forcing, proposals = self._context, call.forcing, []
            for g in deciding:
                clip, tokens = g.clip, x[g.rows][: call.samples]
                if self._maps is not None and clip.maps:
                    clip.maps = self._maps.collect(clip.maps, x.device)
                clip.iteration = None if forcing is None else forcing.iteration
                clip.causal = call.causal
                shown = levels.expand(layout.frames)
                e = None if modulation is None else modulation(g.rows.start)
                distances = measure(clip, self._measure(x.device), tokens, e, shown)
                proposals.append(prepare(clip, context, distances, shown, allow_partial))
            unread = [n for proposed in proposals for p in proposed for n in p.unread()]
            numbers = _numbers(unread if known is not None else [levels, *unread])
            if known is None:
                read_now = tuple(next(numbers) for _ in range(len(levels)))
                known = _per_frame(self._remember(call, read_now), layout.frames)
            for g, proposed in zip(deciding, proposals, strict=True):
                decisions = advance(g.clip, context, proposed, numbers, known)
                g.clip.evaluation = evaluation
                self._record(g.clip, decisions, forcing)
                if self._maps is not None:
                    self._maps.begin(layout, known)
        for g in groups:
            g.clip.served.update(g.keys)
        return groups

    def left(self, clip: ClipState) -> None:
        """The clip has got maps of the current evaluation; other devices may want them."""
        if self._maps is not None:
            self._maps.publish(clip.maps)

    def slide(self, rows: int, layout: TokenLayout, sigma: float) -> None:
        """`ClipState.slide` for all states."""
        for clip in self._clips.values():
            clip.slide(rows, layout, sigma)

    def nbytes(self) -> int:
        """Bytes of everything kept for deciding."""
        return sum(clip.nbytes() for clip in self._clips.values())

    def _levels(
        self, call: ModelCall, device: torch.device, frames: int
    ) -> tuple[Tensor, tuple[float, ...] | None]:
        """Noise levels, one or one per frame: on the device, and where they are known on the
        host."""
        if call.forcing is not None:
            return upload(call.forcing.sigmas, device), call.forcing.sigmas
        levels = call.levels(self._scale)
        if len(levels) not in (1, frames):
            raise CacheShapeError(
                f"{len(levels)} timesteps for {frames} latent frames; give one or one each"
            )
        marker = call.options.get("sigmas")
        if self._read is None or marker is not self._read[0]:
            return levels, None
        # a sampler may write a new level into the tensor it has
        version = _version(marker)
        same = version is not None and version == self._read[1]
        return levels, self._read[2] if same else None

    def _remember(self, call: ModelCall, sigmas: tuple[float, ...]) -> tuple[float, ...]:
        """The branches of an evaluation that come one by one share the host's tensor of levels,
        so that only the first has to read it."""
        marker = call.options.get("sigmas")
        if isinstance(marker, Tensor):
            self._read = (marker, _version(marker), sigmas)
        return sigmas

    def _measure(self, device: torch.device) -> DistanceMeasure:
        if device not in self._measures:
            self._measures[device] = self._source.to(device)
        return self._measures[device]

    def _clip(
        self, device: torch.device, keys: Sequence[BranchKey], layout: TokenLayout, x: Tensor
    ) -> ClipState:
        number = 0 if self._evaluation is None else self._contents.number(keys[0], x)
        key = (device, None if self._shared else prompt_of(keys[0]), number)
        if key not in self._clips:
            first = self._clips.get((*key[:2], 0))
            label = self._name() if first is None else first.label
            self._clips[key] = ClipState.start(label, layout, device)
        return self._clips[key]

    def _name(self) -> str:
        """How the next state is called in records."""
        known = sum(number == 0 for _, _, number in self._clips)
        branch = phrase("all branches") if self._shared else phrase("branch {n}", n=known)
        named = not self._shared or not self._label
        return together(", ", [self._label] * bool(self._label) + [branch] * named)

    def _record(
        self, clip: ClipState, decisions: Sequence[Decision], forcing: ForcingCall | None
    ) -> None:
        recorder = self._context.recorder
        index = len(recorder.trace.evaluations)
        record = EvaluationRecord(index, max(clip.sigmas), clip.label, records(clip, decisions))
        record.position = self._position
        if forcing is not None:
            it = forcing.iteration
            record.window, record.first_frame = it.window, it.start
            record.first_chunk = forcing.first_chunk
        weights = [c.weights for c in clip.chunks if c.weights is not None]
        motion = any(d.phase == "motion" for d in decisions) and len(weights) == len(clip.chunks)
        inverse = None if clip.plan is None else clip.plan.inverse
        clip.record = recorder.evaluation(
            record,
            torch.cat(weights) if motion else None,
            None if inverse is None else inverse[0] >= 0,
        )
        if self._context.settings.verbose:
            log.info("MotionCache - %s", record)


def _version(x: Tensor) -> int | None:
    """Changes when the tensor is written to; None where torch does not count (inference mode)."""
    return None if x.is_inference() else x._version


def _numbers(unread: Sequence[Tensor]) -> Iterator[float]:
    return iter(read(joined(unread)) if unread else ())


def _per_frame(sigmas: tuple[float, ...], frames: int) -> tuple[float, ...]:
    return sigmas * frames if len(sigmas) == 1 else sigmas
