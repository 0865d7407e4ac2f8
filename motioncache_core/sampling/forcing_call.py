"""What a diffusion-forcing sampler says of one model evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .options import ForcingOptions
from .schedule import ACTIVE, UNSTARTED, Iteration


@dataclass(frozen=True, slots=True)
class ForcingCall:
    """What the model is told besides the latents, and the engine with it.

    Attributes:
        iteration: the frames of the input and what their chunks do.
        sigmas: noise level of every latent frame of the input.
        options: of the sampler.
        level: highest noise level among the chunks that are denoised, above 0.
    """

    iteration: Iteration
    sigmas: tuple[float, ...]
    options: ForcingOptions
    level: float = 1.0

    @classmethod
    def at(cls, it: Iteration, levels: Sequence[float], options: ForcingOptions) -> ForcingCall:
        """The evaluation of an iteration, with the noise levels of the run's steps."""
        sigmas: list[float] = []
        level = 0.0
        for frames, chunk in zip(it.chunks, it.steps, strict=True):
            if chunk.role == ACTIVE:
                sigma = levels[chunk.step]
                level = max(level, sigma)
            else:
                sigma = levels[0] if chunk.role == UNSTARTED else levels[-1]
            sigmas += [sigma] * frames
        sigmas[: it.prefix] = [options.condition_noise] * it.prefix
        return cls(it, tuple(sigmas), options, level)

    @property
    def active_sigmas(self) -> tuple[float, ...]:
        """Noise level of the frames that are denoised, 0 for all others."""
        it = self.iteration
        out = [0.0] * it.frames
        for frames, chunk in zip(it.chunk_frames(), it.steps, strict=True):
            if chunk.role == ACTIVE:
                out[frames] = self.sigmas[frames]
        out[: it.prefix] = [0.0] * it.prefix
        return tuple(out)

    @property
    def block_causal(self) -> bool:
        """Whether a chunk attends only to itself and to the chunks before it."""
        return self.options.attention == "block_causal"

    @property
    def first_position(self) -> int:
        """Rotary position of the input's first frame. Keys that are kept while a window rolls stay
        valid, because positions go on with the clip."""
        return 0 if self.options.overlap_frames else self.iteration.start

    @property
    def first_chunk(self) -> int:
        """Number of the input's first chunk in the clip."""
        return self.iteration.start // self.options.chunk_frames
