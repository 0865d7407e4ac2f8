"""Where every model of ComfyUI passes: its answers, computed or foretold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...motioncache_core import AnswerCall, AnswerSession
from ...motioncache_core.models.adapter import qualified_name
from ...motioncache_core.models.registry import ADAPTERS
from .compiled import plain
from .passes import ANSWERS, passes_of


def evaluate(executor: Any, x: Tensor, t: Tensor, c_concat: Any = None, c_crossattn: Any = None,
             control: Any = None, transformer_options: dict[str, Any] | None = None,
             **kwargs: Any) -> Tensor:  # fmt: skip
    """APPLY_MODEL: one call of the model, by the session of its run."""
    options = transformer_options or {}

    def run() -> Tensor:
        out: Tensor = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        return out

    session: AnswerSession | None = options.get(ANSWERS)
    if session is None or torch.compiler.is_compiling():
        return run()
    passes = passes_of(options, len(x))
    if not passes:
        return run()
    network = plain(executor.class_obj.diffusion_model)
    return session.evaluate(
        AnswerCall(
            network,
            run,
            x,
            passes,
            video_of(x, kwargs.get("latent_shapes")),
            _patch(network),
            _family(network),
        )
    )


def video_of(x: Tensor, latent_shapes: Any) -> tuple[int, int, int, int] | None:
    """Channels, frames, rows and columns of the video in noisy latents; None where there is none.

    Args:
        latent_shapes: of the parts of packed latents, the video first.
    """
    shape = tuple(x.shape)
    if x.ndim == 3 and latent_shapes:
        shape = tuple(int(n) for n in latent_shapes[0])
    if len(shape) == 5:
        return (shape[1], shape[2], shape[3], shape[4])
    if len(shape) == 4:
        return (shape[1], 1, shape[2], shape[3])
    return None


def _patch(network: Any) -> tuple[int, int, int]:
    """Latent frames, rows and columns of a token, as video transformers tell them; else 1."""
    told = getattr(network, "patch_size", 1)
    sizes = tuple(told) if isinstance(told, (tuple, list)) else (told, told)
    if not all(isinstance(n, int) and n > 0 for n in sizes):
        return (1, 1, 1)
    padded = (1, 1, 1, *sizes)[-3:]
    return (padded[0], padded[1], padded[2])


def _family(network: Any) -> str:
    name = qualified_name(network)
    for adapter in ADAPTERS:
        if name in adapter.classes or name.startswith(adapter.module_prefix):
            return adapter.name
    return type(network).__name__
