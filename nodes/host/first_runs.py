"""Which sampling runs are the first of their kind, which compile and allocate what others find."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

_finished: set[tuple[str, tuple[int, ...], bool]] = set()


@contextmanager
def is_first(guider: Any, latent: Tensor, cached: bool) -> Iterator[bool]:
    """Around a run: whether none of its kind has ended since the process started.

    Args:
        guider: of the run; runs of another network are of another kind.
        latent: what is sampled, of any shape; another shape is another kind.
        cached: whether MotionCache works in it, which has kernels of its own.
    """
    network = type(guider.model_patcher.model.diffusion_model)
    kind = network.__qualname__, tuple(latent.shape), cached
    yield kind not in _finished
    _finished.add(kind)
