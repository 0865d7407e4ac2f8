"""How close the frames of a run are to the uncached ones. Frames are what a server's PNG files
hold: 8 bits a colour."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from motioncache_pack.motioncache_core import quality
from PIL import Image
from quality.metrics import moving_region
from torch import Tensor


def video(files: Sequence[bytes]) -> Tensor:
    """PNG files as `(F, H, W, 3)` fp32 in 0..1.

    Raises:
        ValueError: there are none, or they differ in size.
    """
    if not files:
        raise ValueError("the run has no frames")
    frames = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files]
    sizes = sorted({f"{f.shape[1]}x{f.shape[0]}" for f in frames})
    if len(sizes) > 1:
        raise ValueError(f"the run's frames differ in size: {', '.join(sizes)}")
    return torch.from_numpy(np.stack(frames)).float() / 255


def measures(reference: Tensor, candidate: Tensor) -> dict[str, Any]:
    """All measures of two videos of one shape, in dB but for SSIM; None where one has no number:
    decibels of equal videos, changes of a single frame, a region that there is not.

    `region_gap` is the static region's PSNR less the moving one's.

    Raises:
        ImageError: they cannot be compared.
    """
    found = quality.compare(reference, candidate)
    moving, static = (_finite(db) for db in _regions(reference, candidate))
    return {
        "identical": found.identical,
        "psnr": _finite(found.psnr),
        "ssim": found.ssim,
        "temporal_psnr": _finite(found.temporal_psnr),
        "psnr_moving": moving,
        "psnr_static": static,
        "region_gap": None if moving is None or static is None else static - moving,
        "worst_frame": found.worst,
        "worst_psnr": _finite(found.frames[found.worst].psnr),
    }


def _regions(reference: Tensor, candidate: Tensor) -> tuple[float | None, float | None]:
    """PSNR where the reference moves and where it does not, frame by frame to spare memory."""
    errors, counts = [0.0, 0.0], [0, 0]
    for index in range(len(reference)):
        first = max(0, index - 1)
        # a frame's region depends on its neighbours only
        moving = moving_region(reference[first : index + 2])[index - first]
        error = (reference[index].double() - candidate[index].double()).square().mean(-1)
        for which, region in enumerate((moving, ~moving)):
            errors[which] += float(error[region].sum())
            counts[which] += int(region.sum())
    moved, still = (
        quality.decibels(e / n) if n else None for e, n in zip(errors, counts, strict=True)
    )
    return moved, still


def _finite(db: float | None) -> float | None:
    return None if db is None or db == float("inf") else db
