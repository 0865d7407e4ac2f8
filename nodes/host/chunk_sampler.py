"""What samplers have in common that denoise a clip in chunks, each behind the one before it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import comfy.samplers
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...motioncache_core import SettingsError

# masks come through an interpolation, exact but for rounding
_MASK_ROUNDING = 1e-3

# steps that are done, of how many, the prediction and the latents
Show = Callable[[int, int, Tensor, Tensor], None]
# from noise, given latents, how many frames of them are given, and a seed
Run = Callable[[Tensor, Tensor, int, int, Show], Tensor]


class ChunkSampler(comfy.samplers.Sampler, ABC):
    """Tells a run's session that it is to tell chunks apart."""

    denoises_chunks = True

    @abstractmethod
    def prepared(
        self, model_wrap: Any, model_options: dict[str, Any], noise: Tensor, sigmas: Tensor,
        prefix: int,
    ) -> Run:  # fmt: skip
        """Everything that can be known before the first step; and what runs the steps."""

    @torch.no_grad()
    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[[int, Tensor, Tensor, int], None] | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Sample the clip.

        Raises:
            UnsupportedModelError: the model cannot be sampled so.
            SettingsError: options or noise levels do not fit, or the noise mask is not a prefix.
            CacheShapeError: the latent has another shape than the model's.
            ConflictError: another cache, or context windows, are in the way.
        """
        latents = torch.zeros_like(noise) if latent_image is None else latent_image
        prefix = 0 if denoise_mask is None else prefix_frames(denoise_mask)
        run = self.prepared(model_wrap, extra_args["model_options"], noise, sigmas, prefix)
        with tqdm(disable=disable_pbar) as bar:

            def show(done: int, total: int, predicted: Tensor, x: Tensor) -> None:
                bar.total = total
                bar.update(done - bar.n)
                if callback is not None:
                    callback(done - 1, predicted, x, total)

            return run(noise, latents, prefix, extra_args.get("seed") or 0, show)


def prefix_frames(mask: Tensor) -> int:
    """Leading latent frames that a noise mask `(B, C, F, H, W)` keeps.

    Raises:
        SettingsError: a frame is kept in part, or kept behind a frame that is sampled.
    """
    if mask.ndim != 5:
        raise SettingsError(
            f"the noise mask has shape {tuple(mask.shape)}; a video's has 5 dimensions. Use "
            "MotionCache Extend Video, or a mask with one picture per latent frame"
        )
    frames = mask.transpose(1, 2).flatten(2)
    low, high = frames.amin(dim=(0, 2)).tolist(), frames.amax(dim=(0, 2)).tolist()
    kept = []
    for i, (least, most) in enumerate(zip(low, high, strict=True)):
        if most <= _MASK_ROUNDING:
            kept.append(True)
        elif least >= 1 - _MASK_ROUNDING:
            kept.append(False)
        else:
            raise SettingsError(
                f"the noise mask of latent frame {i} goes from {least:.3g} to {most:.3g}; a frame "
                "is kept (0) or sampled (1) as a whole. Use one mask picture per latent frame, all "
                "black or all white"
            )
    prefix = kept.index(False) if False in kept else len(kept)
    if any(kept[prefix:]):
        raise SettingsError(
            f"the noise mask keeps latent frame {prefix + kept[prefix:].index(True)} behind frame "
            f"{prefix}, which is sampled; only frames at the start can be given"
        )
    return prefix
