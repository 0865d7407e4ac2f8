"""A run of Euler's method that carries rows of answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tokens.choose import Seen
from tokens.clips import TokenClip
from tokens.memory import Hindsight, RowMemory
from tokens.network import EXACT, RowNetwork
from tokens.plans import Plan
from torch import Tensor

Score = Callable[[Seen], Tensor]


@dataclass(frozen=True)
class Sampled:
    """Latents, and the work that they took as a share of the run without reuse."""

    latents: Tensor
    work: float


def sample(
    clip: TokenClip,
    plan: Plan,
    score: Score | None,
    keys: str = EXACT,
    cut: int = 0,
    depth: int = 0,
    hindsight: bool = True,
) -> Sampled:
    """A run by this plan.

    Args:
        score: chooses rows; None where all are computed or none.
        keys, cut, depth: see `RowNetwork`.
        hindsight: whether what foretold rows missed is paid back.
    """
    run = _Run(clip, RowNetwork(clip, keys, cut, depth), score, hindsight)
    x = clip.sigmas[0] * clip.noise
    for step, share in enumerate(plan):
        given = run.computed(x, step, share) if share > 0 else run.foretold(step)
        guided = given[:1] + clip.cfg * (given[1:] - given[:1])
        x = x + (clip.sigmas[step + 1] - clip.sigmas[step]) * latents(guided, clip.grid)
    return Sampled(x, run.network.work / len(plan))


class _Run:
    """What is carried from step to step; answers are those of both prompts `(2, L, 64)`."""

    def __init__(
        self, clip: TokenClip, network: RowNetwork, score: Score | None, hindsight: bool
    ) -> None:
        self.network, self._score, self._hindsight = network, score, hindsight
        # asked by nobody but the oracle
        self._plain = RowNetwork(clip, EXACT)
        self._answers, self._probed = RowMemory(), RowMemory()
        self._open = Hindsight(clip.sigmas)
        self._missed, self._gaps = torch.zeros(network.tokens), torch.ones(network.tokens)

    def foretold(self, step: int) -> Tensor:
        """What to tell the sampler at a step at which no row is computed."""
        self._open.told(step, torch.ones(self.network.tokens, dtype=torch.bool), self._answers)
        return self._answers.foretold(step)

    def computed(self, x: Tensor, step: int, share: float) -> Tensor:
        """What to tell it where so many of the rows are."""
        known, network = self._answers, self.network
        if not known.values:
            given, _ = network(x, step, None)
            self._remember(step, given, None)
            return given
        foretold = known.foretold(step)

        def choose() -> Tensor:
            assert self._score is not None
            seen = Seen(
                step,
                known,
                self._missed,
                self._gaps,
                probe=lambda: _square(network.added - self._probed.foretold(step)),
                truth=lambda: _square(self._plain(x, step, None)[0] - foretold),
            )
            count = max(1, round(share * network.tokens))
            return self._score(seen).topk(count).indices.sort().values

        made, rows = network(x, step, None if share >= 1 else choose)
        now = torch.zeros(network.tokens, dtype=torch.bool)
        now[slice(None) if rows is None else rows] = True
        answers = torch.where(now[None, :, None], made, foretold)
        self._missed = torch.where(now, _square(made - foretold), self._missed)
        self._gaps = torch.where(now, known.ages(step), self._gaps)
        given = answers
        if self._hindsight:
            given = answers + self._open.pay(step, answers, now, known)
        self._open.told(step, ~now, known)
        self._remember(step, answers, rows)
        return given

    def _remember(self, step: int, answers: Tensor, rows: Tensor | None) -> None:
        self._answers.store(step, answers, rows)
        self._probed.store(step, self.network.added, rows)


def latents(answers: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Rows `(B, L, 64)` as latents `(B, 16, F, H, W)`."""
    f, h, w = grid
    cells = answers.reshape(-1, f, h, w, 16, 2, 2).permute(0, 4, 1, 2, 5, 3, 6)
    return cells.reshape(-1, 16, f, 2 * h, 2 * w)


def _square(rows: Tensor) -> Tensor:
    return rows.pow(2).mean((0, 2))
