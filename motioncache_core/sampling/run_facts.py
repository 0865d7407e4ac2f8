"""What the host knows of a run before it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..common.protocols import DistanceSource
from ..common.reasons import Reason

# a run that ends at a higher noise level leaves the rest to another sampler; UniPC stops at 0.001
LEFTOVER = 0.005


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
        announced: whether the host says where an evaluation begins.
        stops: exceptions by which the user ends a run.
        shared: whether several processes compute it together, each of which has to decide alike.
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
    announced: bool = False
    stops: tuple[type[Exception], ...] = ()
    shared: bool = False

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
