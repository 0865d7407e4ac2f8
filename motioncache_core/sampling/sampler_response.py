"""How a sampler's latents follow from the model's answers, found by rehearsing the sampler (ours).

With the answer `d = (x - x0) / sigma` every sampler of a known length is linear: the latents that
evaluation k is given are `a_k * start + sum_(j < k) response[k, j] * d_j`, plus noise that it may
add. A rehearsal on a handful of numbers, without the model, measures the coefficients: each number
follows one answer through the whole run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..common.errors import MotionCacheError
from ..common.phrases import phrase

Matrix = npt.NDArray[np.float64]
# latents `(1, n, 1, 1, 1)` and a noise level -> clean latents of the same shape
Model = Callable[[Tensor, float], Tensor]
# latents -> one draw of noise of their shape
Noise = Callable[[Tensor], Tensor]
# runs the sampler from these latents: a fresh run each time, without side effects
Rehearsed = Callable[[Model, Tensor, Noise], Tensor]

# a sampler that goes on for longer has no length of its own
_ENDLESS = 4096
# of the largest number, in the precision that samplers that insist on fp32 have
_LINEAR = 1e-3


class RehearsalError(MotionCacheError):
    """A sampler cannot be followed: its length or its steps depend on what the model answers."""


@dataclass(frozen=True)
class SamplerResponse:
    """A sampler on one schedule.

    Attributes:
        sigmas: noise level of each of the N evaluations.
        places: where they are on the schedule, in steps; equal noise levels are one place.
        response: `(N + 1, N)` fp64: of the latents that evaluation k is given, and in the last row
            of the result, to the answer of evaluation j.
        adds_noise: whether the sampler adds noise on its way.
        one_answer: whether it goes by one answer; where it takes the guided and the unguided one
            apart, as samplers for CFG++ do, what one of them owes cannot be paid through both.
    """

    sigmas: tuple[float, ...]
    places: tuple[float, ...]
    response: Matrix
    adds_noise: bool = False
    one_answer: bool = True

    @property
    def evaluations(self) -> int:
        """N, all stages of all steps."""
        return len(self.sigmas)

    @cached_property
    def clean_response(self) -> Matrix:
        """`response` to clean latents `x0 = x - sigma * d` in the place of answers."""
        # x = a * start + R d and d = (x - x0) / sigma, so (I - R / sigma) x = ... - (R / sigma) x0
        n = self.evaluations
        scaled = self.response / np.asarray(self.sigmas)
        found = np.empty_like(self.response)
        found[:n] = np.linalg.solve(np.eye(n) - scaled[:n], -scaled[:n])
        found[n] = scaled[n] @ (found[:n] - np.eye(n))
        return found

    @property
    def forgets(self) -> bool:
        """Whether the next latents follow from the last clean ones and new noise alone."""
        after = np.abs(np.tril(self.clean_response[1:], k=-1))
        return self.adds_noise and bool((after < 1e-6).all())


def shares(response: Matrix) -> Matrix:
    """`response[k + 1, j] / response[k + 1, k]`, `(N, N)`: what evaluation k has to add to its
    answer for one unit that answer j owes. Rows are 0 where k's own answer hardly counts."""
    after = response[1:]
    own = np.diagonal(after).copy()
    counts = np.abs(own) > 1e-3 * np.abs(after).max(axis=1)
    found: Matrix = np.where(counts[:, None], after, 0.0) / np.where(counts, own, 1.0)[:, None]
    return found


def euler(sigmas: tuple[float, ...]) -> SamplerResponse:
    """The response of Euler's method: `x + (sigma_(k+1) - sigma_k) * d_k`.

    Args:
        sigmas: noise levels of N steps and the one they end at.
    """
    steps = np.diff(np.asarray(sigmas, dtype=np.float64))
    response = np.tril(np.broadcast_to(steps, (len(steps) + 1, len(steps))), k=-1)
    return SamplerResponse(sigmas[:-1], places(sigmas[:-1], sigmas), response.copy())


def rehearse(sample: Rehearsed, sigmas: tuple[float, ...]) -> SamplerResponse:
    """Measure a sampler.

    Args:
        sample: the sampler; it is run two or three times.
        sigmas: the schedule, with the noise level that it ends at.

    Raises:
        RehearsalError: it cannot be followed; says why.
    """
    try:
        return _rehearse(sample, sigmas, torch.float64)
    except RehearsalError:
        raise
    except Exception:
        # some take fp32 only
        pass
    try:
        return _rehearse(sample, sigmas, torch.float32)
    except RehearsalError:
        raise
    except Exception as error:
        # whatever another pack's sampler wants of a model that a rehearsal does not have
        raise RehearsalError(f"{type(error).__name__}: {error}") from error


def _rehearse(sample: Rehearsed, sigmas: tuple[float, ...], dtype: torch.dtype) -> SamplerResponse:
    levels: list[float] = []

    def count(x: Tensor, sigma: float) -> Tensor:
        levels.append(sigma)
        if len(levels) > _ENDLESS:
            raise RehearsalError(
                phrase("it has made {count} evaluations and goes on", count=_ENDLESS)
            )
        return torch.zeros_like(x)

    sample(count, torch.zeros(1, 1, 1, 1, 1, dtype=dtype), torch.zeros_like)
    n = len(levels)
    if n == 0:
        raise RehearsalError(phrase("it does not call the model"))
    # behind the answers: the start, noise, and all of it mixed to see whether they add up
    start, noise, mixed = n, n + 1, n + 2
    mix = torch.Generator().manual_seed(0)
    answers = torch.cat((torch.eye(n), torch.zeros(n, 3)), dim=1).to(dtype)
    answers[:, mixed] = torch.randn(n, generator=mix)
    seen: list[Tensor] = []

    def answer(x: Tensor, sigma: float) -> Tensor:
        k = len(seen)
        if k >= n or sigma != levels[k]:
            raise RehearsalError(phrase("its steps depend on what the model answers"))
        seen.append(x.reshape(-1).double())
        return x - sigma * answers[k].view(x.shape)

    def one(x: Tensor) -> Tensor:
        drawn = torch.zeros_like(x)
        drawn[:, noise] = 1.0
        return drawn

    first = torch.zeros(1, n + 3, 1, 1, 1, dtype=dtype)
    first[:, start] = first[:, mixed] = 1.0
    result = sample(answer, first, one)
    if len(seen) != n:
        raise RehearsalError(phrase("its steps depend on what the model answers"))
    rows = torch.stack([*seen, result.reshape(-1).double()])
    if not bool(torch.isfinite(rows).all()):
        raise RehearsalError(phrase("it has no finite response"))
    foretold = rows[:, :n] @ answers[:, mixed].double() + rows[:, start]
    if float((foretold - rows[:, mixed]).abs().max()) > _LINEAR * float(rows.abs().max()):
        raise RehearsalError(phrase("its latents are not a weighted sum of the model's answers"))
    return SamplerResponse(
        tuple(levels),
        places(levels, sigmas),
        rows[:, :n].numpy().copy(),
        bool(rows[:, noise].abs().max() > 0),
    )


def places(levels: list[float] | tuple[float, ...], sigmas: tuple[float, ...]) -> tuple[float, ...]:
    """Where noise levels are on a schedule, in steps; their number where it does not fall."""
    falls = all(high > low for high, low in pairwise(sigmas))
    if len(sigmas) < 2 or not falls:
        return tuple(float(k) for k in range(len(levels)))
    at = np.interp([-s for s in levels], [-s for s in sigmas], np.arange(len(sigmas)))
    return tuple(round(float(p), 6) for p in at)
