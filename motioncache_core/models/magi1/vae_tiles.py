"""A video through MAGI-1's autoencoder, tile by tile.

The tiles belong to the published result: 12 frames of 256 x 256 pixels, every 192 pixels one, with
a linear blend over 64 and none in time. Without tiles the result is another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...common.errors import CacheShapeError
from .vae import FRAMES, LATENT_CHANNELS, PIXELS, MagiVAE

# latent frames, rows and columns of a tile, and every how many of them one starts
_SIZE = (3, 32, 32)
_STEP = (3, 24, 24)
_BLEND = 8

Tick = Callable[[], None]


@dataclass(frozen=True)
class _Tiling:
    """Tiles of one direction.

    Attributes:
        read: what one cell of a latent is in the input (frames, pixels).
        write: the same in the output.
        feeds_on: a blended tile, not the tile as it was made, goes into the next blend.
    """

    read: tuple[int, int]
    write: tuple[int, int]
    feeds_on: bool


_ENCODE = _Tiling((FRAMES, PIXELS), (1, 1), feeds_on=True)
_DECODE = _Tiling((1, 1), (FRAMES, PIXELS), feeds_on=False)


def tile_count(*grid: int) -> int:
    """Tiles of so many latent frames, rows and columns, in either direction."""
    return math.prod(-(-length // step) for length, step in zip(grid, _STEP, strict=False))


def latent_frames(frames: int) -> int:
    """Latents that so many frames become: one of 4, one of a last frame that begins a tile.

    Others that are left over are lost.

    Raises:
        CacheShapeError: there are 2 or 3 frames, or none.
    """
    if frames < 1 or frames in (2, 3):
        raise CacheShapeError(
            f"there are {frames} frames; MAGI-1's VAE encodes 1 (a picture) or at least {FRAMES}. "
            "Give one frame, or more of them"
        )
    tile = FRAMES * _STEP[0]
    return frames // FRAMES + (frames % tile == 1)


def encode(
    vae: MagiVAE, video: Tensor, place: Callable[[Tensor], Tensor], tick: Tick = lambda: None
) -> Tensor:
    """Latents of a video, not scaled: `(B, 16, T, H / 8, W / 8)` in fp32, where the video is.

    Args:
        video: `(B, 3, F, H, W)` in [-1, 1]; H and W are multiples of 8.
        place: brings a tile to the device and dtype of the autoencoder.
        tick: is called after every tile.

    Raises:
        CacheShapeError: channels, sizes or number of frames do not fit.
    """
    if video.ndim != 5 or video.shape[1] != 3 or video.shape[3] % PIXELS or video.shape[4] % PIXELS:
        raise CacheShapeError(
            f"the video has shape {tuple(video.shape)}; MAGI-1's VAE encodes (batch, 3, frames, "
            f"height, width) with sizes that {PIXELS} divides. Resize it"
        )
    frames = latent_frames(video.shape[2])
    grid = (frames, video.shape[3] // PIXELS, video.shape[4] // PIXELS)
    out = video.new_empty((len(video), LATENT_CHANNELS, *grid), dtype=torch.float32)
    _tiled(lambda tile: vae.encode_tile(place(tile)), video, out, grid, _ENCODE, tick)
    return out


def decode(
    vae: MagiVAE, latents: Tensor, place: Callable[[Tensor], Tensor], tick: Tick = lambda: None
) -> Tensor:
    """The video of latents, not scaled: `(B, 3, F, 8 * H, 8 * W)`, in fp32, where the latents are.

    Four frames a latent; a latent that is alone in its tile of three gives one.

    Args:
        latents: `(B, 16, T, H, W)`.
        place: brings a tile to the device and dtype of the autoencoder.
        tick: is called after every tile.

    Raises:
        CacheShapeError: the latents are of another model.
    """
    if latents.ndim != 5 or latents.shape[1] != LATENT_CHANNELS:
        raise CacheShapeError(
            f"the latent has shape {tuple(latents.shape)}; MAGI-1's VAE decodes (batch, "
            f"{LATENT_CHANNELS}, frames, height, width). Take a latent of MAGI-1"
        )
    t, h, w = latents.shape[2:]
    frames = FRAMES * t - (FRAMES - 1) * (t % _STEP[0] == 1)
    shape = (len(latents), 3, frames, PIXELS * h, PIXELS * w)
    out = latents.new_empty(shape, dtype=torch.float32)
    _tiled(lambda tile: vae.decode_tile(place(tile)), latents, out, (t, h, w), _DECODE, tick)
    return out


def _tiled(
    work: Callable[[Tensor], Tensor],
    source: Tensor,
    out: Tensor,
    grid: tuple[int, int, int],
    tiling: _Tiling,
    tick: Tick,
) -> None:
    """Fill `out` with blended tiles. Only the tiles of two rows are kept at a time."""
    for t in range(0, grid[0], _STEP[0]):
        above: list[Tensor] = []
        for y in range(0, grid[1], _STEP[1]):
            row: list[Tensor] = []
            for x in range(0, grid[2], _STEP[2]):
                made = work(_cut(source, (t, y, x), tiling.read))
                blended = made
                if above:
                    blended = _blend(above[len(row)], blended, 3, _BLEND * tiling.write[1])
                if row:
                    blended = _blend(row[-1], blended, 4, _BLEND * tiling.write[1])
                row.append(blended if tiling.feeds_on else made)
                _paste(out, blended, (t, y, x), tiling.write)
                tick()
            above = row


def _cut(source: Tensor, start: tuple[int, int, int], unit: tuple[int, int]) -> Tensor:
    for axis, (first, size) in enumerate(zip(start, _SIZE, strict=True)):
        step = unit[0] if axis == 0 else unit[1]
        left = source.shape[axis + 2] - first * step
        source = source.narrow(axis + 2, first * step, min(size * step, left))
    # a rest that is no whole latent, but for a single frame
    spare = source.shape[2] % unit[0] if source.shape[2] > 1 else 0
    return source.narrow(2, 0, source.shape[2] - spare)


def _paste(out: Tensor, tile: Tensor, start: tuple[int, int, int], unit: tuple[int, int]) -> None:
    """Write the part of a tile that no later tile covers."""
    view = out
    for axis, (first, size) in enumerate(zip(start, _STEP, strict=True)):
        step = unit[0] if axis == 0 else unit[1]
        length = min(size * step, tile.shape[axis + 2])
        tile = tile.narrow(axis + 2, 0, length)
        view = view.narrow(axis + 2, first * step, length)
    view.copy_(tile)


def _blend(before: Tensor, tile: Tensor, axis: int, extent: int) -> Tensor:
    """The tile with its beginning faded in over the end of the one before it."""
    extent = min(extent, before.shape[axis], tile.shape[axis])
    shape = [1] * tile.ndim
    shape[axis] = extent
    weight = (torch.arange(extent) / extent).to(tile).reshape(shape)
    end = before.narrow(axis, before.shape[axis] - extent, extent)
    begin = end * (1 - weight) + tile.narrow(axis, 0, extent) * weight
    return torch.cat((begin, tile.narrow(axis, extent, tile.shape[axis] - extent)), dim=axis)
