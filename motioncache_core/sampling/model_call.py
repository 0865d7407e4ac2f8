"""What the host tells the core: about a run before it starts, and about each model call."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .forcing import WindowCall
from .options import ForcingOptions
from .run_facts import ContextWindow
from .schedule import Iteration

BranchKey = Hashable


@dataclass(frozen=True, slots=True)
class ForcingCall:
    """What a diffusion-forcing sampler says of one model evaluation.

    Attributes:
        sigmas: noise level of every latent frame of the input.
        block_causal: whether a chunk attends only to itself and to the chunks before it.
        kv_keep: finished chunks' worth of keys and values to keep; 0 keeps all.
        active_sigmas: the same for frames that are being denoised, 0 for all others.
        level: the highest of these.
        chunk_frames: latent frames of a whole chunk; the clip's last one may be shorter.
        first_position: rotary position of the input's first frame. Keys that are kept while a
            window rolls stay valid, because positions go on with the clip.
    """

    iteration: Iteration
    sigmas: tuple[float, ...]
    block_causal: bool
    kv_keep: int = 0
    active_sigmas: tuple[float, ...] = ()
    level: float = 1.0
    chunk_frames: int = 1
    first_position: int = 0

    @classmethod
    def of(cls, call: WindowCall, options: ForcingOptions) -> ForcingCall:
        """The engine's view of what the sampler is about to evaluate."""
        it = call.iteration
        causal = options.attention == "block_causal"
        position = 0 if options.overlap_frames else it.start
        return cls(
            it,
            call.sigmas,
            causal,
            options.kv_keep,
            call.active_sigmas,
            call.level,
            options.chunk_frames,
            position,
        )

    @property
    def first_chunk(self) -> int:
        """Number of the input's first chunk in the clip."""
        return self.iteration.start // self.chunk_frames


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
