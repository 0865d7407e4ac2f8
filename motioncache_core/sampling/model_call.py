"""What the host tells the core: about a run before it starts, and about each model call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..cache.branches import BranchKey
from ..common.reasons import Reason
from ..policy.distance import DistanceSource
from ..policy.map_exchange import MapExchange
from .forcing import WindowCall
from .options import ForcingOptions
from .schedule import Iteration

# a run that ends at a higher noise level leaves the rest to another sampler; UniPC stops at 0.001
LEFTOVER = 0.005


@dataclass(frozen=True, slots=True)
class ForcingCall:
    """What a diffusion-forcing sampler says of one model evaluation.

    Attributes:
        sigmas: noise level of every latent frame of the input.
        block_causal: whether a chunk attends only to itself and to the chunks before it.
        kv_keep: finished chunks' worth of keys and values to keep; 0 keeps all.
        active_sigmas: the same for frames that are being denoised, 0 for all others.
        level: the highest of these.
        chunk_frames: latent frames of a whole chunk; the clip's last one may be shorter.
        first_position: rotary position of the input's first frame. Keys that are kept while a
            window rolls stay valid, because positions go on with the clip.
    """

    iteration: Iteration
    sigmas: tuple[float, ...]
    block_causal: bool
    kv_keep: int = 0
    active_sigmas: tuple[float, ...] = ()
    level: float = 1.0
    chunk_frames: int = 1
    first_position: int = 0

    @classmethod
    def of(cls, call: WindowCall, options: ForcingOptions) -> ForcingCall:
        """The engine's view of what the sampler is about to evaluate."""
        it = call.iteration
        causal = options.attention == "block_causal"
        position = 0 if options.overlap_frames else it.start
        return cls(
            it,
            call.sigmas,
            causal,
            options.kv_keep,
            call.active_sigmas,
            call.level,
            options.chunk_frames,
            position,
        )

    @property
    def first_chunk(self) -> int:
        """Number of the input's first chunk in the clip."""
        return self.iteration.start // self.chunk_frames

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Transformer options with the rotary positions of the input."""
        if self.first_position == 0:
            return dict(options)
        rope = dict(options.get("rope_options") or {})
        rope["shift_t"] = rope.get("shift_t", 0.0) + self.first_position
        return {**options, "rope_options": rope}


@dataclass(frozen=True, slots=True)
class ContextWindow:
    """Latent frames of a longer clip that the host gives the model as an input of its own.

    Attributes:
        frames: in the order in which the model sees them, counted in the clip.
        anchor: a frame that the host puts before them and takes off the model's answer.
    """

    frames: tuple[int, ...]
    anchor: int | None = None

    @property
    def length(self) -> int:
        """Latent frames of the model's input."""
        return len(self.frames) + (self.anchor is not None)


@dataclass(frozen=True, slots=True)
class SchedulePart:
    """The part of the model's whole noise schedule that a run samples.

    Attributes:
        start, end: as shares of the schedule, 0 (noise) to 1 (clean).
        first_sigma, last_sigma: the same as noise levels.
    """

    start: float
    end: float
    first_sigma: float
    last_sigma: float

    @property
    def goes_on(self) -> bool:
        """Whether noise is left for another sampler to remove."""
        return self.last_sigma > LEFTOVER


@dataclass(frozen=True)
class ModelCall:
    """One call of the network, in the host's words.

    Attributes:
        network: the diffusion transformer.
        run: calls the network with the given options and returns its output.
        x: model input `(B, C, F, H, W)`; the noisy latent comes first in C.
        timestep: `(B,)` or one per latent frame `(B, F)`.
        branches: conditioning branches in batch order; B is a multiple of their number.
        options: the host's transformer options.
        arguments: the call's other arguments by name.
        forcing: where the sampler denoises chunks at noise levels of their own.
        window: where the host cuts the clip into context windows.
    """

    network: object
    run: Callable[[dict[str, Any]], Tensor]
    x: Tensor
    timestep: Tensor
    branches: tuple[BranchKey, ...]
    options: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    forcing: ForcingCall | None = None
    window: ContextWindow | None = None

    @property
    def causal(self) -> bool:
        """Whether attention is block-causal, which the engine has to see to."""
        return self.forcing is not None and self.forcing.block_causal

    @property
    def samples(self) -> int:
        """Batch rows of each branch."""
        return self.x.shape[0] // len(self.branches)


@dataclass(frozen=True)
class RunFacts:
    """What the host knows of a run before it starts.

    Attributes:
        sigmas: the noise levels of the run, where known, with the one it ends at; used to find the
            last evaluation.
        end_sigma: noise level at and below which everything is computed.
        branches: conditioning branches to expect, for the memory estimate.
        free_memory: free bytes on the model's device.
        free_host_memory: free bytes of the host.
        make_room: asks the host for so many free bytes on the model's device.
        profile: calibrated distance; wins over the adapter's choice.
        chunks: latent frames of each chunk; None makes the clip one chunk.
        part: where these noise levels lie in the model's whole schedule.
        windows: the context windows of every step; none where the clip is not cut.
        declined: why the run passes through untouched, where it has to.
        exchange: takes and gives motion maps, where the branches are spread over devices.
    """

    sigmas: Sequence[float] = ()
    end_sigma: float | None = None
    branches: int = 2
    free_memory: Callable[[], int] | None = None
    free_host_memory: Callable[[], int] | None = None
    make_room: Callable[[int], None] | None = None
    profile: DistanceSource | None = None
    chunks: tuple[int, ...] | None = None
    part: SchedulePart | None = None
    windows: tuple[ContextWindow, ...] = ()
    declined: Reason | None = None
    exchange: MapExchange | None = None

    @property
    def step_sigmas(self) -> list[float]:
        """Noise levels that steps start from. The one a schedule ends at is above 0 where another
        sampler goes on."""
        return [s for s in self.sigmas[:-1] if s > 0]

    @property
    def last_sigma(self) -> float | None:
        """Noise level of the last step, with room for rounding. None where another sampler goes
        on: the run's last evaluation is not the video's then."""
        if not self.step_sigmas or self.sigmas[-1] > LEFTOVER:
            return None
        return min(self.step_sigmas) * (1 + 1e-4)
