"""The diffusion-forcing loop: what the model is shown in each iteration, and what it changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..common.errors import CacheShapeError, SettingsError
from .forcing_call import ForcingCall
from .options import ForcingOptions
from .schedule import ACTIVE, Iteration, forcing_schedule
from .solver import SolverState, check_sigmas, make_solver

# x (B, C, f, H, W) fp32 -> clean latents that the model predicts, same shape. Frames of chunks
# that are not active are not read. x may be a view of the sampler's state: it must not be
# written to, and it changes after the call.
Evaluate = Callable[[Tensor, ForcingCall], Tensor]

# iterations done, iterations of the run, clean latents predicted so far, latents; both of the
# full clip and live, so a callback that keeps one copies it
Progress = Callable[[int, int, Tensor, Tensor], None]


def sample_forcing(
    evaluate: Evaluate,
    noise: Tensor,
    latents: Tensor,
    sigmas: Sequence[float] | Tensor,
    options: ForcingOptions,
    prefix: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Tensor:
    """Samples a clip with its chunks at different noise levels (SkyReels-V2, arXiv 2504.13074).

    Runs under the caller's `no_grad`.

    Args:
        evaluate: the model with its guidance.
        noise: `(B, C, F, H, W)`, unit variance.
        latents: `(B, C, F, H, W)`. The first `prefix` frames are given; the others are started
            from, which matters only where `sigmas` starts below 1.
        sigmas: noise levels, N + 1 of them for N steps (see `make_solver`).
        options: chunks, windows, solver and noise on given frames.
        prefix: given frames.
        seed: of the noise on given frames, which is drawn on the CPU: anew in every iteration
            with bidirectional attention, once a window with block-causal attention, which computes
            keys and values of given frames once. A seed that also made `noise` repeats its
            numbers; give another.
        progress: called after each iteration. Its prediction is the last one for frames that
            have started, and the latents for others.

    Returns:
        `(B, C, F, H, W)` fp32; the given frames are unchanged.

    Raises:
        CacheShapeError: the tensors are not 5-D or differ in shape, or `evaluate` returns
            another shape than it got.
        SettingsError: see `forcing_schedule` and `make_solver`; or noise is left at the end of
            `sigmas` although later windows start from finished frames.
    """
    _check_shapes(noise, latents)
    levels = check_sigmas(sigmas)
    schedule = forcing_schedule(latents.shape[2], len(levels) - 1, options, prefix)
    if levels[-1] > 0.0 and schedule[-1].window > 0:
        raise SettingsError(
            f"sigmas end at {levels[-1]:g}, but windows that follow each other start from finished "
            "frames. Let sigmas end at 0, or set overlap_frames to 0."
        )
    solver = make_solver(options.solver, levels)
    x = levels[0] * noise.float() + (1.0 - levels[0]) * latents.float()
    x[:, :, :prefix] = latents[:, :, :prefix]
    predicted = x.clone() if progress is not None else None
    given = _GivenFrames(options, seed)
    states: dict[int, SolverState] = {}
    for it in schedule:
        call = ForcingCall.at(it, levels, options)
        shown = given.show(x[:, :, it.start : it.start + it.frames], it)
        x0 = evaluate(shown, call)
        if x0.shape != shown.shape:
            raise CacheShapeError(
                f"the model returned {tuple(x0.shape)} for latents {tuple(shown.shape)}; "
                "it must return the shape it gets"
            )
        for frames, chunk in zip(it.chunk_frames(), it.steps, strict=True):
            if chunk.role != ACTIVE:
                continue
            # given frames at the head of an active chunk are not sampled
            sampled = slice(max(frames.start, it.prefix), frames.stop)
            clip = slice(it.start + sampled.start, it.start + sampled.stop)
            state = states.pop(clip.start, None) or solver.start()
            x[:, :, clip] = state.step(chunk.step, x[:, :, clip], x0[:, :, sampled])
            if chunk.step < len(levels) - 2:
                states[clip.start] = state
            if predicted is not None:
                predicted[:, :, clip] = x0[:, :, sampled]
        if progress is not None and predicted is not None:
            progress(it.index + 1, len(schedule), predicted, x)
    return x


class _GivenFrames:
    """Puts the condition noise on the frames that are given, in the model's input only."""

    def __init__(self, options: ForcingOptions, seed: int) -> None:
        self.noise_level = options.condition_noise
        self.once = options.attention == "block_causal"
        self.generator = torch.Generator().manual_seed(seed)
        self.window = -1
        self.start = 0
        self.noised: Tensor | None = None

    def show(self, x: Tensor, it: Iteration) -> Tensor:
        """The input with noised given frames; `x` itself where nothing changes."""
        if it.prefix == 0 or self.noise_level == 0.0:
            return x
        if self.noised is None or not self.once or it.window != self.window:
            self.noised = self._noised(x[:, :, : it.prefix])
            self.window, self.start = it.window, it.start
        # a rolling window has left some of them behind
        noised = self.noised[:, :, it.start - self.start :]
        return torch.cat((noised, x[:, :, it.prefix :]), dim=2)

    def _noised(self, z: Tensor) -> Tensor:
        noise = torch.randn(z.shape, generator=self.generator, dtype=torch.float32).to(z.device)
        return (1.0 - self.noise_level) * z + self.noise_level * noise


def _check_shapes(noise: Tensor, latents: Tensor) -> None:
    if latents.dim() != 5:
        raise CacheShapeError(
            f"the latent has shape {tuple(latents.shape)}; diffusion forcing samples video "
            "latents (batch, channels, frames, height, width). Use an empty video latent."
        )
    if noise.shape != latents.shape:
        raise CacheShapeError(
            f"the noise has shape {tuple(noise.shape)} and the latent {tuple(latents.shape)}; "
            "they must be the same. Make the noise for this latent."
        )
