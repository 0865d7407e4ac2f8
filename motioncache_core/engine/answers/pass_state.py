"""What is kept of one pass: its last answers, and what the sampler was told of others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ...common.host_transfer import read
from ...common.protocols import TokenOps
from ...policy.answer_ledger import KEPT, AnswerLedger
from ...policy.motion_weights import token_patches


class PassState:
    """The answers `d = (x - x0) / sigma` of one pass, fp32; or its clean latents, which are what
    they are seen from latents of 0 at noise level 1, but for their sign.

    Where their device has no room they go on in the host's memory: several devices or processes
    that share a run go by one plan, and none of them may leave it.

    Args:
        network: whose answers these are.
        x: noisy latents of the pass `(b, ...)`; its shape and device are the answers'.
        ledger: of this pass alone.
        clean: whether clean latents are kept.
    """

    def __init__(self, network: object, x: Tensor, ledger: AnswerLedger, clean: bool) -> None:
        self.network, self.ledger, self._clean = network, ledger, clean
        # its class may be swapped while the object stays
        self._kind = type(network)
        # numbers of the evaluations that it was last computed in, and last asked for
        self.last_seen = self.last_asked = -1
        self.on_host, self._device = False, x.device
        self._answers = torch.empty(0)
        self._answers = self._with_room(
            lambda place: torch.empty((KEPT, *x.shape), dtype=torch.float32, device=place)
        )
        # slots from old to new
        self._order: list[int] = []

    def is_of(self, network: object) -> bool:
        """Whether the answers are this network's."""
        return self.network is network and self._kind is type(network)

    def is_like(self, x: Tensor) -> bool:
        """Whether the answers have the shape and the place of these latents."""
        return self._answers.shape[1:] == x.shape and self._device == x.device

    def reuse(self, evaluation: int, x: Tensor, sigma: float, ops: TokenOps) -> Tensor:
        """Clean latents that the model was not asked for, fp32 of x's shape."""
        weights = self.ledger.reuse(evaluation)

        def made(place: torch.device) -> Tensor:
            seen, level = self._seen_from(x.to(place), sigma)
            return ops.reuse_answer(seen, self._answers, weights, level)

        return self._with_room(made).to(x.device)

    def store(self, evaluation: int, x: Tensor, x0: Tensor, sigma: float, ops: TokenOps) -> Tensor:
        """The clean latents to give for those that the model gave, which are remembered."""
        taken = self.ledger.store(evaluation)

        def made(place: torch.device) -> Tensor:
            seen, level = self._seen_from(x.to(place), sigma)
            clean = x0.to(place).contiguous()
            return ops.store_answer(
                seen, clean, self._answers, taken.weights, taken.own, level, taken.slot
            )

        told = self._with_room(made)
        self._order = [s for s in self._order if s != taken.slot] + [taken.slot]
        # nothing to pay: what the model gave, to the bit
        return told.to(x.device) if taken.pays else x0

    def _seen_from(self, x: Tensor, sigma: float) -> tuple[Tensor, float]:
        return (torch.zeros_like(x), 1.0) if self._clean else (x.contiguous(), sigma)

    def _with_room(self, make: Callable[[torch.device], Tensor]) -> Tensor:
        """What is made beside the answers, with them in the host's memory where it must be."""
        if not self.on_host:
            try:
                return make(self._device)
            except torch.OutOfMemoryError:
                self.on_host = True
            # only now, as the traceback held what had been made
            self._answers = self._answers.cpu()
        return make(torch.device("cpu"))

    def change(
        self, size: tuple[int, int, int, int] | None, patch: tuple[int, int, int]
    ) -> Tensor | None:
        """How much each token's answer changed between the last two that were computed, 1 where
        most: `(L,)` fp32; None where there are no two, or no grid.

        Args:
            size, patch: `video` and `patch` of a call, see `AnswerCall`.
        """
        if not self.pairs or size is None:
            return None
        before, now = (self._answers[s] for s in self._order[-2:])
        # the samples of a batch are one picture
        moved = (now - before).abs().flatten(1).amax(dim=0)
        c, f, h, w = size
        video = moved[: c * f * h * w].view(1, c, f, h, w)
        change = token_patches(video, patch)[0].mean(dim=-1).flatten()
        found: Tensor = change / change.amax().clamp_min(1e-30)
        return found

    @property
    def pairs(self) -> bool:
        """Whether there are two answers to compare."""
        return len(self._order) > 1

    def growth(self) -> Tensor:
        """Squared sizes `(2,)` of what the answer changed by between the last two that were
        computed, and of the last one."""
        before, now = (self._answers[s] for s in self._order[-2:])
        sizes = (torch.linalg.vector_norm(part).square() for part in (now - before, now))
        return torch.stack(tuple(sizes))

    def video_change(self, patch: tuple[int, int, int]) -> Tensor | None:
        """The same where the latents are videos `(b, C, F, H, W)`."""
        c, f, h, w = self._answers.shape[2:]
        return self.change((c, f, h, w), patch)

    def nbytes(self) -> int:
        """Bytes of the answers."""
        return self._answers.numel() * self._answers.element_size()


def relative_change(states: Iterable[PassState]) -> float:
    """How much the answers of these passes changed between the last two that were computed,
    beside the last ones; not a number where there are no two. This waits for the device."""
    found = [read(s.growth()) for s in states if s.pairs]
    moved, size = (sum(squares) for squares in zip(*found, strict=True)) if found else (0.0, 0.0)
    return math.sqrt(moved / size) if size > 0 else math.nan
