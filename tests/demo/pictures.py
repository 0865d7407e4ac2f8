"""Frames as pictures and animations, and how alike two videos are."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


def frames_of(video: torch.Tensor, scale: int) -> list[Image.Image]:
    """`(F, H, W, 3)` in 0..1 as enlarged pictures."""
    out = []
    for frame in video:
        picture = Image.fromarray((frame.clamp(0, 1).numpy() * 255).round().astype(np.uint8))
        size = (picture.width * scale, picture.height * scale)
        out.append(picture.resize(size, Image.Resampling.BICUBIC if scale > 2 else 0))
    return out


def save_animation(pictures: list[Image.Image], path: Path, fps: int = 6) -> None:
    """An animated WebP that repeats."""
    first, *rest = pictures
    first.save(path, save_all=True, append_images=rest, duration=1000 // fps, loop=0, quality=90)


def beside(rows: list[list[Image.Image]]) -> list[Image.Image]:
    """Several animations side by side, with a gap."""
    out = []
    for pictures in zip(*rows, strict=True):
        width = sum(p.width for p in pictures) + 8 * (len(pictures) - 1)
        sheet = Image.new("RGB", (width, pictures[0].height), "white")
        left = 0
        for picture in pictures:
            sheet.paste(picture, (left, 0))
            left += picture.width + 8
        out.append(sheet)
    return out


def contact_sheet(pictures: list[Image.Image]) -> Image.Image:
    """All pictures of an animation in one row."""
    width = pictures[0].width
    sheet = Image.new("RGB", (width * len(pictures) + 4 * (len(pictures) - 1), pictures[0].height))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i * (width + 4), 0))
    return sheet


def similarity(reference: torch.Tensor, candidate: torch.Tensor) -> tuple[float, float]:
    """PSNR in dB and SSIM (mean over frames) of two videos `(F, H, W, 3)` in 0..1."""
    a, b = reference.numpy(), candidate.numpy()
    if np.array_equal(a, b):
        return float("inf"), 1.0
    ssim = [
        structural_similarity(x, y, data_range=1.0, channel_axis=-1)
        for x, y in zip(a, b, strict=True)
    ]
    return float(peak_signal_noise_ratio(a, b, data_range=1.0)), statistics.fmean(ssim)
