"""One call of the model around its network, as the host makes it for one or more passes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from torch import Tensor

PassKey = Hashable


@dataclass(frozen=True)
class AnswerCall:
    """One call of the model: noisy latents in, clean latents out.

    Attributes:
        network: what computes it; another one has other answers.
        run: calls the model and returns clean latents of x's shape.
        x: noisy latents `(B, ...)`, of any shape.
        passes: what each of the call's equal parts along B is computed for, in batch order. Two
            passes of one evaluation that differ have different keys, or come in a fixed order.
        video: where a part of x is the video: channels, frames, rows and columns, the first
            numbers of a sample; None where x has no grid.
        patch: latent frames, rows and columns of a token.
        name: of the model's family, for the report.
    """

    network: object
    run: Callable[[], Tensor]
    x: Tensor
    passes: tuple[PassKey, ...]
    video: tuple[int, int, int, int] | None = None
    patch: tuple[int, int, int] = (1, 1, 1)
    name: str = ""

    @property
    def samples(self) -> int:
        """Batch rows of each pass."""
        return self.x.shape[0] // len(self.passes)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Token frames, rows and columns; one token where there is no grid."""
        if self.video is None:
            return (1, 1, 1)
        f, h, w = (-(-n // p) for n, p in zip(self.video[1:], self.patch, strict=True))
        return (f, h, w)
