"""Which frames each model evaluation sees, and what every chunk of them is doing meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..common.errors import SettingsError
from .options import ForcingOptions

UNSTARTED, ACTIVE, CLEAN, DONE = "unstarted", "active", "clean", "done"

# Some hosts keep rotary positions in 16 bits: bfloat16 counts without gaps up to here
MAX_ROLLING_FRAMES = 256


@dataclass(frozen=True, slots=True)
class ChunkStep:
    """What a chunk does in one iteration.

    Attributes:
        role: UNSTARTED: pure noise. ACTIVE: denoised by one step. CLEAN: evaluated once more
            without noise (given frames: at the condition noise), which is when clean keys and
            values can be stored. DONE: nothing left to do.
        step: index of the denoising step of an ACTIVE chunk, else -1.
    """

    role: str
    step: int = -1


@dataclass(frozen=True, slots=True)
class Iteration:
    """One model evaluation (all CFG branches).

    Attributes:
        index: counted over the whole run, from 0.
        window: changes where nothing of the last iteration carries over, which is from one
            sequential window to the next; always 0 for a rolling window or the whole clip.
        start: first latent frame of the model's input.
        chunks: frames of each chunk in the input.
        steps: one per chunk.
        prefix: leading frames of the input that are given, not sampled. They may end inside a
            chunk, which is ACTIVE all the same.
    """

    index: int
    window: int
    start: int
    chunks: tuple[int, ...]
    steps: tuple[ChunkStep, ...]
    prefix: int

    @property
    def frames(self) -> int:
        """Latent frames of the input."""
        return sum(self.chunks)

    def chunk_frames(self) -> list[slice]:
        """Each chunk's frames, relative to the input."""
        slices, first = [], 0
        for frames in self.chunks:
            slices.append(slice(first, first + frames))
            first += frames
        return slices


def forcing_schedule(
    frames: int, steps: int, options: ForcingOptions, prefix: int = 0
) -> list[Iteration]:
    """All evaluations of a run.

    The diffusion-forcing schedule of SkyReels-V2 (arXiv 2504.13074) in closed form: with p chunks
    given as a whole and a delay of d steps, chunk j of a window is at step `i - d * (j - p)` in
    the window's iteration i. A rolling window only changes which chunks are in the input. The
    one clean evaluation of a finished chunk is ours.

    Args:
        frames: latent frames of the clip.
        steps: denoising steps of a chunk.
        options: chunk, delay and window; the rest is not read.
        prefix: leading frames that are given.

    Raises:
        SettingsError: nothing is left to sample, a count is out of range, or the delay is too
            small or the clip too long for a rolling window.
    """
    _check_counts(frames, steps, prefix)
    window, overlap = options.window_frames, options.overlap_frames
    if window == 0 or window >= frames:
        return list(_one_window(frames, steps, options, prefix, None))
    if overlap == 0:
        _check_rolling(frames, steps, options)
        return list(_one_window(frames, steps, options, prefix, window // options.chunk_frames))
    run: list[Iteration] = []
    finished = prefix
    number = 0
    for start in range(0, frames - overlap, window - overlap):
        end = min(start + window, frames)
        if end <= finished:
            continue
        for it in _one_window(end - start, steps, options, max(finished - start, 0), None):
            run.append(replace(it, index=len(run), window=number, start=start))
        finished = end
        number += 1
    return run


def _one_window(
    frames: int, steps: int, options: ForcingOptions, prefix: int, visible: int | None
) -> Iterator[Iteration]:
    """Iterations of one window; only `visible` chunks at a time are in the input, None is all."""
    size = options.chunk_frames
    delay = min(options.chunk_delay, steps)
    cuts = tuple(min(size, frames - first) for first in range(0, frames, size))
    ready, count = prefix // size, len(cuts)
    for i in range(steps + (count - ready - 1) * delay):
        first, end = 0, count
        if visible is not None:
            newest = min(ready + i // delay, count - 1)
            end = max(visible, newest + 1)
            first = end - visible
        yield Iteration(
            index=i,
            window=0,
            start=first * size,
            chunks=cuts[first:end],
            steps=tuple(
                _ready_step(i) if j < ready else _chunk_step(i + 1 - delay * (j - ready), steps)
                for j in range(first, end)
            ),
            prefix=max(prefix - first * size, 0),
        )


def _ready_step(i: int) -> ChunkStep:
    return ChunkStep(CLEAN if i == 0 else DONE)


def _chunk_step(count: int, steps: int) -> ChunkStep:
    """`count`: evaluations of the chunk up to and with this one; below 1 before it starts."""
    if count < 1:
        return ChunkStep(UNSTARTED)
    if count <= steps:
        return ChunkStep(ACTIVE, count - 1)
    return ChunkStep(CLEAN if count == steps + 1 else DONE)


def _check_counts(frames: int, steps: int, prefix: int) -> None:
    if frames < 1:
        raise SettingsError(f"the clip has {frames} latent frames; give at least 1")
    if steps < 1:
        raise SettingsError(f"the run has {steps} denoising steps; give at least 1")
    if prefix < 0:
        raise SettingsError(f"prefix is {prefix} frames; give 0 or more")
    if prefix >= frames:
        raise SettingsError(
            f"{prefix} of {frames} latent frames are given: nothing to sample. "
            "Make the clip longer or give fewer frames."
        )


def _check_rolling(frames: int, steps: int, options: ForcingOptions) -> None:
    chunks = options.window_frames // options.chunk_frames
    # a chunk must be finished when the window moves past it, and if its keys are to be kept, they
    # must be the clean ones of the evaluation after that
    needed = steps + 1 if options.kv_keep else steps
    smallest = -(-needed // chunks)
    if options.chunk_delay < smallest:
        raise SettingsError(
            f"chunk_delay is {options.chunk_delay}; a rolling window of {chunks} chunks needs at "
            f"least {smallest} for {steps} steps. Raise chunk_delay or window_frames, or set "
            "overlap_frames for windows that follow each other."
        )
    if frames > MAX_ROLLING_FRAMES:
        raise SettingsError(
            f"the clip has {frames} latent frames; a rolling window allows up to "
            f"{MAX_ROLLING_FRAMES}. Set overlap_frames for windows that follow each other."
        )
