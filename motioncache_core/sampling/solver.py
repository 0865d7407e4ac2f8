"""Solvers of the flow ODE: coefficients once per run on the host, one small state per chunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from ..common.errors import SettingsError
from .options import SOLVERS


class SolverState(Protocol):
    """What a solver remembers of one chunk."""

    def step(self, k: int, x: Tensor, x0: Tensor) -> Tensor:
        """The latents one step on.

        Args:
            k: index of the step; every chunk takes 0, 1, ... N - 1 in turn.
            x: latents `(B, C, f, H, W)` fp32 at noise level `sigmas[k]`.
            x0: clean latents that the model predicts from `x`, same shape.

        Returns:
            Latents at `sigmas[k + 1]`, fp32, in memory of their own. Neither argument is written
            to or kept.
        """


class Solver(Protocol):
    """Coefficients of a run."""

    def start(self) -> SolverState:
        """The state of a chunk that has not made a step."""


def make_solver(name: str, sigmas: Sequence[float] | Tensor) -> Solver:
    """A solver for these noise levels.

    Args:
        name: "unipc" or "euler".
        sigmas: noise levels of a flow model, where `x = (1 - sigma) * clean + sigma * noise`:
            N + 1 values that fall from at most 1 to at least 0.

    Raises:
        SettingsError: the name is unknown, or the levels are not such a sequence.
    """
    if name not in SOLVERS:
        raise SettingsError(f"solver is {name!r}; allowed are {', '.join(map(repr, SOLVERS))}")
    levels = check_sigmas(sigmas)
    return UniPC(levels) if name == "unipc" else Euler(levels)


def check_sigmas(sigmas: Sequence[float] | Tensor) -> tuple[float, ...]:
    """The noise levels as host floats.

    Raises:
        SettingsError: see `make_solver`.
    """
    values = sigmas.tolist() if isinstance(sigmas, Tensor) else sigmas
    levels = tuple(float(s) for s in values)
    if len(levels) < 2:
        raise SettingsError(f"sigmas has {len(levels)} values; give at least 2, which is one step")
    for k, level in enumerate(levels):
        if not 0.0 <= level <= 1.0:
            raise SettingsError(
                f"sigmas[{k}] is {level:g}; a flow model's noise levels lie from 0 to 1. "
                "Take them from a scheduler of this model."
            )
    for k, (high, low) in enumerate(pairwise(levels)):
        if low >= high:
            raise SettingsError(
                f"sigmas[{k}] is {high:g} and sigmas[{k + 1}] is {low:g}; every value must be "
                "smaller than the one before. Use fewer steps or another scheduler."
            )
    return levels


class Euler:
    """Euler's method on `dx/dsigma = (x - x0) / sigma`. Has no memory, so it is its own state."""

    def __init__(self, sigmas: Sequence[float]) -> None:
        self.ratios = [low / high for high, low in pairwise(sigmas)]

    def start(self) -> SolverState:
        return self

    def step(self, k: int, x: Tensor, x0: Tensor) -> Tensor:
        ratio = self.ratios[k]
        if ratio == 0.0:
            return x0.to(torch.float32, copy=True)
        # one rounding of x, where two weighted parts would each be rounded to its size
        return torch.lerp(x.float(), x0.float(), 1.0 - ratio)


class UniPC:
    """UniPC of order 2 with B(h) = e^h - 1 that predicts x0, as SkyReels-V2 samples.

    Zhao et al. 2023 (arXiv 2302.04867), with lambda = ln((1 - sigma) / sigma) and one order less
    in the last step. Each step corrects x with the prediction that was made from it (UniC), then
    predicts the next x (UniP); the model is not asked again. Everything is linear in the tensors,
    and `(1 - sigma_k) * (e^-h - 1)` is `sigma_k / sigma_(k-1) - 1`, so a step is a weighted sum.

    A first sigma of exactly 1 has lambda = -inf. All weights have finite limits there, and these
    are used: seen from a finite lambda the first prediction is infinitely far away and says
    nothing of the slope, so it drops out of the second prediction and the third correction. Its
    correction then is the exact weight for a straight line between two predictions, which the
    plain order-1 correction with its weight of 1/2 is not; falling back to order 1 would also
    make the result jump between sigmas just below 1 and 1.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        steps = len(sigmas) - 1
        lambdas = [_log_snr(s) for s in sigmas]
        self.orders = [min(2, steps - k, k + 1) for k in range(steps)]
        # weights of y, m_k, m_(k-1), as far as the order goes
        self.predictors = [
            _predictor(sigmas, lambdas, k, order) for k, order in enumerate(self.orders)
        ]
        # weights of y, m_k, m_(k-1), m_(k-2); none for the first step
        self.correctors: list[tuple[float, ...]] = [()]
        self.correctors += [
            _corrector(sigmas, lambdas, k, self.orders[k - 1]) for k in range(1, steps)
        ]

    def start(self) -> SolverState:
        return _UniPCState(self)


class _UniPCState:
    """The last corrected latents, and as many earlier predictions as the next step reads."""

    def __init__(self, solver: UniPC) -> None:
        self.solver = solver
        self.y: Tensor | None = None
        self.predictions: tuple[Tensor, ...] = ()

    def step(self, k: int, x: Tensor, x0: Tensor) -> Tensor:
        solver = self.solver
        m = x0.to(torch.float32, copy=True)
        if self.y is None:
            y = x.to(torch.float32, copy=True)
        else:
            y = _mix(solver.correctors[k], (self.y, m, *self.predictions))
        order = solver.orders[k]
        kept = (m, *self.predictions[: order - 1])
        x_next = _mix(solver.predictors[k], (y, *kept))
        last = k == len(solver.orders) - 1
        self.y, self.predictions = (None, ()) if last else (y, kept)
        return x_next


def _mix(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """The weighted sum in fp32. A tensor of weight 0 is not read: 0 times inf is no number."""
    total: Tensor | None = None
    for weight, x in zip(weights, tensors, strict=True):
        if weight == 0.0:
            continue
        total = x.float() * weight if total is None else total.add_(x.float(), alpha=weight)
    assert total is not None
    return total


def _log_snr(sigma: float) -> float:
    if sigma == 0.0:
        return math.inf
    return math.log1p(-sigma) - math.log(sigma) if sigma < 1.0 else -math.inf


def _predictor(
    sigmas: Sequence[float], lambdas: Sequence[float], k: int, order: int
) -> tuple[float, ...]:
    ratio = sigmas[k + 1] / sigmas[k]
    if order == 1:
        return ratio, 1.0 - ratio
    # 1 / r of the paper; 0 where the earlier lambda is -inf
    inverse = (lambdas[k + 1] - lambdas[k]) / (lambdas[k - 1] - lambdas[k])
    back = 0.5 * inverse
    return ratio, (1.0 - ratio) * (1.0 - back), (1.0 - ratio) * back


def _corrector(
    sigmas: Sequence[float], lambdas: Sequence[float], k: int, order: int
) -> tuple[float, ...]:
    ratio = sigmas[k] / sigmas[k - 1]
    if order == 1:
        return ratio, (1.0 - ratio) * 0.5, (1.0 - ratio) * 0.5
    h = lambdas[k] - lambdas[k - 1]
    inverse = h / (lambdas[k - 2] - lambdas[k - 1])
    # the paper's 2 x 2 system solved by hand, written in 1 / r so that r may be infinite
    phi1, phi2, phi3 = _phi(-h)
    b1, b2 = phi2 / phi1, 2.0 * phi3 / phi1
    share = (b1 - b2) * inverse / (inverse - 1.0)
    now, before = b1 - share, share * inverse
    return (
        ratio,
        (1.0 - ratio) * now,
        (1.0 - ratio) * (1.0 - now - before),
        (1.0 - ratio) * before,
    )


def _phi(z: float) -> tuple[float, float, float]:
    """phi_1, phi_2 and phi_3 of z: `phi_1 = (e^z - 1) / z`, `phi_(n+1) = (phi_n - 1 / n!) / z`."""
    if abs(z) < 1.0:
        # the recursion cancels near 0
        first, second, third = (
            sum(z**n / math.factorial(n + order) for n in range(18)) for order in (1, 2, 3)
        )
        return first, second, third
    phi1 = math.expm1(z) / z
    phi2 = (phi1 - 1.0) / z
    return phi1, phi2, (phi2 - 0.5) / z
