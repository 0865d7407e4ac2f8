"""What the host tells the core: about a run before it starts, and about each model call."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..common.host_transfer import upload
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
        branches: conditioning branches in batch order; B is a multiple of their number. Other
            passes of the same evaluation have other keys.
        options: the host's transformer options.
        arguments: the call's other arguments by name.
        forcing: where the sampler denoises chunks at noise levels of their own.
        window: where the host cuts the clip into context windows.
        foreign: why single tokens cannot be told apart, where code of other nodes runs in the
            network that may need all of them.
        partial_note: what is said of the call where only some tokens are computed.
        behind: what other nodes' code is called that stands between us and the network.
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
    foreign: Reason | None = None
    partial_note: str = ""
    behind: tuple[str, ...] = ()
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
        return self.latents.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the call runs."""
        return self.latents.device

    def levels(self, scale: float) -> Tensor:
        """Noise levels `(1,)`, or one per latent frame `(F,)`, fp32 on the call's device.

        They are the sampler's own, where it says them: timesteps of a frame that is kept in part
        are scaled by its mask, and are those of no step.

        Args:
            scale: timestep at noise level 1.
        """
        told = self.options.get("sigmas")
        if self.forcing is None and isinstance(told, Tensor):
            first = told.reshape(-1)[:1].float()
            # they may lie on the host
            return upload(first, self.device) if first.is_cpu else first.to(self.device)
        return self.timestep[0].float().reshape(-1) / scale

    @property
    def latents(self) -> Tensor:
        """The video's part of the input."""
        return self.x if isinstance(self.x, Tensor) else self.x[0]
