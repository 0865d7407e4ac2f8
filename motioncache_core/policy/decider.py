"""Who decides in a clip, and the one time in an evaluation that the host waits for the device."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.errors import CacheShapeError
from ..common.host_transfer import joined, read, upload
from ..common.protocols import DistanceMeasure, DistanceSource, TokenOps
from ..common.token_layout import TokenLayout
from ..engine.block_hooks import modulation_row
from ..report.trace import EvaluationRecord, Trace
from ..report.trace_recorder import PendingMaps
from ..sampling.model_call import BranchKey, ForcingCall, ModelCall
from ..sampling.run_facts import RunFacts
from ..settings import MotionCacheSettings
from .chunk_decision import Decision
from .clip_decision import Circumstances, ClipDecision, advance, measure, prepare, records

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DecisionGroup:
    """Batch rows and branches of a call that follow one decision."""

    scope: ClipDecision
    rows: slice
    keys: tuple[BranchKey, ...]


class Decider:
    """The decision states of a clip, and the records of what was decided.

    Args:
        maps: takes what the records get at the end of the run.
        timestep_scale: timestep at sigma 1.
        reuse: False computes every chunk that is being denoised.
        position, label: of the context window, for the records.
    """

    def __init__(
        self,
        settings: MotionCacheSettings,
        ops: TokenOps,
        run: RunFacts,
        trace: Trace,
        maps: PendingMaps,
        source: DistanceSource,
        timestep_scale: float,
        reuse: bool,
        position: int = 0,
        label: str = "",
    ) -> None:
        self._settings, self._ops, self._run, self._trace = settings, ops, run, trace
        self._maps, self._source = maps, source
        self._position, self._label = position, label
        self._scale, self._reuse = timestep_scale, reuse
        self._measures: dict[torch.device, DistanceMeasure] = {}
        self._scopes: dict[tuple[torch.device, BranchKey], ClipDecision] = {}
        self._read: tuple[Tensor, int | None, tuple[float, ...]] | None = None
        shared = run.exchange is not None and settings.cfg_mask == "shared"
        self._lane = run.exchange.lane() if run.exchange is not None and shared else None

    def groups(self, call: ModelCall, layout: TokenLayout) -> list[DecisionGroup]:
        """The call's parts, with the states that decide for them."""
        n = call.samples
        if self._settings.cfg_mask == "shared":
            parts = [(slice(0, n * len(call.branches)), call.branches)]
        else:
            parts = [(slice(i * n, (i + 1) * n), (key,)) for i, key in enumerate(call.branches)]
        device = call.x.device
        return [
            DecisionGroup(self._scope(device, keys, layout), rows, keys) for rows, keys in parts
        ]

    def decide(
        self,
        call: ModelCall,
        layout: TokenLayout,
        x: Tensor,
        vec: Tensor,
        allow_partial: bool,
    ) -> list[DecisionGroup]:
        """Make the plans of an evaluation when its first call reaches the first block.

        All that the host has to know is read together, the noise level included.

        Args:
            x: tokens `(B, L, C)`.
            vec: timestep modulation `(B, T, 6, C)` or `(B, 6, C)`.
        """
        groups = self.groups(call, layout)
        levels, sigmas = self._levels(call, layout.frames)
        if sigmas is None and any(g.scope.may_be_current(g.keys[0]) for g in groups):
            sigmas = self._remember(call, tuple(read(levels)))
        known = None if sigmas is None else _per_frame(sigmas, layout.frames)
        deciding = [g for g in groups if known is None or not g.scope.is_current(known, g.keys[0])]
        if deciding:
            given = self._circumstances(call.forcing, allow_partial)
            proposals = []
            for g in deciding:
                tokens, modulation = x[g.rows][: call.samples], modulation_row(vec, g.rows.start)
                if self._lane is not None and g.scope.maps:
                    g.scope.maps = self._lane.joined(g.scope.maps, x.device)
                g.scope.given = 0 if given.iteration is None else given.iteration.prefix
                shown = levels.expand(layout.frames)
                distances = measure(
                    g.scope, self._measure(x.device), tokens, modulation, shown, given.iteration
                )
                proposals.append(
                    prepare(g.scope, self._settings, distances, shown, self._ops, given)
                )
            unread = [n for proposed in proposals for p in proposed for n in p.unread()]
            numbers = _numbers(unread if known is not None else [levels, *unread])
            if known is None:
                read_now = tuple(next(numbers) for _ in range(len(levels)))
                known = _per_frame(self._remember(call, read_now), layout.frames)
            for g, proposed in zip(deciding, proposals, strict=True):
                decisions = advance(
                    g.scope, self._settings, proposed, numbers, known, self._ops, given
                )
                self._record(g.scope, decisions, call.forcing)
                if self._lane is not None:
                    self._lane.begin(layout, known)
        for g in groups:
            g.scope.served.update(g.keys)
        return groups

    def left(self, scope: ClipDecision) -> None:
        """The scope has got maps of the current evaluation; other devices may want them."""
        if self._lane is not None:
            self._lane.leave(scope.maps)

    def slide(self, rows: int, layout: TokenLayout, sigma: float) -> None:
        """`ClipDecision.slide` for all states."""
        for scope in self._scopes.values():
            scope.slide(rows, layout, sigma)

    def nbytes(self) -> int:
        """Bytes of everything kept for deciding."""
        return sum(scope.nbytes() for scope in self._scopes.values())

    def _levels(self, call: ModelCall, frames: int) -> tuple[Tensor, tuple[float, ...] | None]:
        """Noise levels, one or one per frame: on the device, and where they are known on the
        host."""
        if call.forcing is not None:
            return upload(call.forcing.sigmas, call.x.device), call.forcing.sigmas
        levels = call.timestep[0].float().reshape(-1) / self._scale
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

    def _circumstances(self, forcing: ForcingCall | None, allow_partial: bool) -> Circumstances:
        return Circumstances(
            self._run.last_sigma,
            self._run.end_sigma,
            allow_partial,
            self._reuse,
            None if forcing is None else forcing.iteration,
            forcing is not None and forcing.block_causal,
        )

    def _measure(self, device: torch.device) -> DistanceMeasure:
        if device not in self._measures:
            self._measures[device] = self._source.to(device)
        return self._measures[device]

    def _scope(
        self, device: torch.device, keys: Sequence[BranchKey], layout: TokenLayout
    ) -> ClipDecision:
        separate = self._settings.cfg_mask == "separate"
        scope_key = (device, keys[0] if separate else None)
        if scope_key not in self._scopes:
            branch = f"branch {len(self._scopes)}" if separate else "all branches"
            names = [self._label] * bool(self._label) + [branch] * (separate or not self._label)
            self._scopes[scope_key] = ClipDecision.start(", ".join(names), layout, device)
        return self._scopes[scope_key]

    def _record(
        self, scope: ClipDecision, decisions: Sequence[Decision], forcing: ForcingCall | None
    ) -> None:
        record = EvaluationRecord(
            len(self._trace.evaluations), max(scope.sigmas), scope.label, records(scope, decisions)
        )
        record.position = self._position
        if forcing is not None:
            it = forcing.iteration
            record.window, record.first_frame = it.window, it.start
            record.first_chunk = forcing.first_chunk
        self._trace.evaluations.append(record)
        scope.record = record
        weights = [c.weights for c in scope.chunks if c.weights is not None]
        motion = any(d.phase == "motion" for d in decisions) and len(weights) == len(scope.chunks)
        inverse = None if scope.plan is None else scope.plan.inverse
        self._maps.add(
            record,
            torch.cat(weights) if motion else None,
            None if inverse is None else inverse[0] >= 0,
        )
        if self._settings.verbose:
            log.info("MotionCache - %s", record)


def _version(x: Tensor) -> int | None:
    """Changes when the tensor is written to; None where torch does not count (inference mode)."""
    return None if x.is_inference() else x._version


def _numbers(unread: Sequence[Tensor]) -> Iterator[float]:
    return iter(read(joined(unread)) if unread else ())


def _per_frame(sigmas: tuple[float, ...], frames: int) -> tuple[float, ...]:
    return sigmas * frames if len(sigmas) == 1 else sigmas
