"""MAGI-1's autoencoder as ComfyUI's VAE nodes use one; the host's own class takes no other kind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor

from ...motioncache_core import CacheShapeError
from ...motioncache_core.models.magi1 import vae_tiles
from ...motioncache_core.models.magi1.vae import FRAMES, LATENT_CHANNELS, PIXELS, MagiVAE, build_vae

_DTYPES = (torch.bfloat16, torch.float32)
# of the largest tile: rows; tensors of the network's width and of the pixels that are alive at once
_TILE_ROWS = 3 * 32 * 32 + 1
_ALIVE, _ALIVE_PIXELS = 24, 256


def vae_names() -> list[str]:
    """The files of ComfyUI's `vae` folders."""
    import folder_paths

    names: list[str] = folder_paths.get_filename_list("vae")
    return names


def load_magi_vae(name: str) -> MagiVaeSocket:
    """A file of the `vae` folders.

    Raises:
        UnsupportedModelError: it is the VAE of another model.
    """
    import folder_paths

    path = folder_paths.get_full_path_or_raise("vae", name)
    return MagiVaeSocket(build_vae(comfy.utils.load_torch_file(path)))


class MagiVaeSocket:
    """What goes through a VAE socket: the methods and sizes that the host's nodes ask for.

    Videos are always cut into the published tiles, so the tiled methods are the others.
    Latents are not scaled: the model's latent format does that, as with the host's VAEs.
    """

    latent_channels, latent_dim, output_channels = LATENT_CHANNELS, 3, 3
    not_video = False
    upscale_ratio = (lambda frames: frames * FRAMES, PIXELS, PIXELS)
    downscale_ratio = (vae_tiles.latent_frames, PIXELS, PIXELS)
    upscale_index_formula = downscale_index_formula = (FRAMES, PIXELS, PIXELS)

    def __init__(self, vae: MagiVAE, dtype: torch.dtype | None = None) -> None:
        management = comfy.model_management
        self.device = management.vae_device()
        self.vae_dtype = dtype or management.vae_dtype(self.device, list(_DTYPES))
        self.output_device = management.intermediate_device()
        self.first_stage_model = vae.to(self.vae_dtype)
        # not the patcher that loads weights as layers ask for them: these layers do not ask
        self.patcher = comfy.model_patcher.ModelPatcher(
            vae, load_device=self.device, offload_device=management.vae_offload_device()
        )

    def decode(self, samples_in: Tensor, vae_options: dict[str, Any] | None = None) -> Tensor:
        """`(B, 16, T, H, W)` to frames `(B, F, 8 * H, 8 * W, 3)` in [0, 1].

        Raises:
            CacheShapeError: the latents are of another model.
        """
        grid = tuple(samples_in.shape[2:])
        video = self._run(vae_tiles.decode, samples_in.to(self.output_device), grid)
        return video.add_(1).div_(2).clamp_(0, 1).movedim(1, -1)

    def decode_tiled(self, samples: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`decode`: its tiles are the model's own, whatever sizes are asked for."""
        return self.decode(samples)

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """Frames `(F, H, W, 3)`, or `(B, F, H, W, 3)`, in [0, 1], to `(B, 16, T, h, w)`.

        Sizes are cropped to multiples of 8, in the middle; a fourth channel is dropped.

        Raises:
            CacheShapeError: there are 2 or 3 frames, or no colours.
        """
        if pixel_samples.ndim not in (4, 5) or pixel_samples.shape[-1] < 3:
            raise CacheShapeError(
                f"the images have shape {tuple(pixel_samples.shape)}; MAGI-1's VAE encodes "
                "(frames, height, width, 3) or (batch, frames, height, width, 3)"
            )
        pixels = pixel_samples if pixel_samples.ndim == 5 else pixel_samples[None]
        video = self.vae_encode_crop_pixels(pixels).movedim(-1, 1).to(self.output_device)
        frames, height, width = video.shape[2:]
        grid = (vae_tiles.latent_frames(frames), height // PIXELS, width // PIXELS)
        return self._run(vae_tiles.encode, video * 2 - 1, grid)

    def encode_tiled(self, pixel_samples: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`encode`: its tiles are the model's own, whatever sizes are asked for."""
        return self.encode(pixel_samples)

    def _run(
        self, direction: Callable[..., Tensor], source: Tensor, grid: tuple[int, ...]
    ) -> Tensor:
        """One video after the other, with progress, stopping where the user interrupts.

        Args:
            grid: latent frames, rows and columns of a video.
        """
        management = comfy.model_management
        management.load_models_gpu(
            [self.patcher], memory_required=self.memory_used(), force_full_load=True
        )
        progress = comfy.utils.ProgressBar(len(source) * vae_tiles.tile_count(*grid))

        def tick() -> None:
            management.throw_exception_if_processing_interrupted()
            progress.update(1)

        def place(tile: Tensor) -> Tensor:
            return tile.to(device=self.device, dtype=self.vae_dtype)

        with torch.no_grad(), _on(self.device):
            made = [direction(self.first_stage_model, one[None], place, tick) for one in source]
        return made[0] if len(made) == 1 else torch.cat(made)

    def memory_used(self) -> int:
        """Bytes that a tile needs while the network works on it, beside the weights (ours)."""
        width = self.first_stage_model.config.width
        numbers = _TILE_ROWS * (_ALIVE * width + _ALIVE_PIXELS * FRAMES)
        size: int = comfy.model_management.dtype_size(self.vae_dtype)
        return numbers * size

    def memory_used_encode(self, shape: Any, dtype: torch.dtype) -> int:
        """As nodes ask a VAE of the host: bytes for a video of this shape."""
        return self.memory_used()

    def memory_used_decode(self, shape: Any, dtype: torch.dtype) -> int:
        """As nodes ask a VAE of the host: bytes for latents of this shape."""
        return self.memory_used()

    def vae_encode_crop_pixels(self, pixels: Tensor) -> Tensor:
        """`(..., H, W, C)` cropped in the middle to multiples of 8, and to three channels."""
        for axis in (-3, -2):
            length = pixels.shape[axis]
            kept = length // PIXELS * PIXELS
            pixels = pixels.narrow(axis, (length - kept) // 2, kept)
        return pixels[..., :3]

    def vae_output_dtype(self) -> torch.dtype:
        """Of frames and latents."""
        return torch.float32

    def spacial_compression_decode(self) -> int:
        """Pixels a latent; the host's spelling."""
        return PIXELS

    def spacial_compression_encode(self) -> int:
        """Pixels a latent; the host's spelling."""
        return PIXELS

    def temporal_compression_decode(self) -> int:
        """Frames a latent."""
        return FRAMES

    def throw_exception_if_invalid(self) -> None:
        """Nothing: a file that is none was refused when it was loaded."""

    def model_size(self) -> int:
        """Bytes of the weights."""
        size: int = self.patcher.model_size()
        return size

    def get_sd(self) -> dict[str, Tensor]:
        """The weights."""
        return self.first_stage_model.state_dict()


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """The host's context of a device, which older versions lack."""
    context = getattr(comfy.model_management, "cuda_device_context", None)
    found: AbstractContextManager[Any] = context(device) if context else nullcontext()
    return found
