"""What the host says of one call of MAGI-1's network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...sampling.forcing_call import ForcingCall
from .blocks import Attend
from .network import MagiNetwork
from .options import MagiOptions


@dataclass(frozen=True)
class ChunkCall:
    """All chunks of a clip in one iteration of the sampler.

    Attributes:
        x: latents `(1, C, F, H, W)`, fp32.
        forcing: what every chunk does.
        options: of the sampler.
        distilled: whether the network was distilled, and is called once for each chunk.
        text: rows of text `(1, n, text_width)` of a chunk.
        before: is called before each evaluation of the network, which it may prevent.
    """

    network: MagiNetwork
    attend: Attend
    x: Tensor
    forcing: ForcingCall
    options: MagiOptions
    distilled: bool
    text: Callable[[int], Tensor]
    before: Callable[[], None]
