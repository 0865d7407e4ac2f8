"""What the host tells the core: about a run before it starts, and about each model call."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..common.reasons import Reason
from .forcing_call import ForcingCall
from .run_facts import ContextWindow

BranchKey = Hashable


@dataclass(frozen=True)
class ModelCall:
    """One call of the network, in the host's words.

    Attributes:
        network: the diffusion transformer.
        run: calls the network with the given options and returns its output.
        x: model input `(B, C, F, H, W)`, the noisy latent first in C; a list where a family has
            more than video.
        timestep: `(B,)` or one per latent frame `(B, F)`.
        branches: conditioning branches in batch order; B is a multiple of their number.
        options: the host's transformer options.
        arguments: the call's other arguments by name.
        forcing: where the sampler denoises chunks at noise levels of their own.
        window: where the host cuts the clip into context windows.
        part: which part of the clip is sampled, where they are sampled one behind the other; what
            is kept of one does not serve the next.
        whole: why the call has to be computed as a whole and remembers nothing, where that is so.
    """

    network: object
    run: Callable[[dict[str, Any]], Tensor]
    x: Tensor | Sequence[Tensor]
    timestep: Tensor
    branches: tuple[BranchKey, ...]
    options: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    forcing: ForcingCall | None = None
    window: ContextWindow | None = None
    part: Hashable = None
    whole: Reason | None = None

    @property
    def causal(self) -> bool:
        """Whether attention is block-causal, which the engine has to see to."""
        return self.forcing is not None and self.forcing.block_causal

    @property
    def samples(self) -> int:
        """Batch rows of each branch."""
        return self.rows // len(self.branches)

    @property
    def rows(self) -> int:
        """Batch rows B."""
        return self._first.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the call runs."""
        return self._first.device

    @property
    def _first(self) -> Tensor:
        return self.x if isinstance(self.x, Tensor) else self.x[0]
