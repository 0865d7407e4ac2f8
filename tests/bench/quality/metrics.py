"""How close a video stays to the uncached one: everywhere, over time, where it moves, where not.

Videos are `(F, H, W, 3)` in 0..1. Decibels are relative to a range of 1 and end at 99, which
stands for equal videos.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from motioncache_pack.motioncache_core import quality
from torch import Tensor

TOP_DB = 99.0
# a pixel moves where a colour changes by more than this from a frame to the next; the region is
# grown by so many pixels
MOVING, GROWN = 0.05, 2


Result = TypeVar("Result")


def timed(run: Callable[[], Result]) -> tuple[Result, dict[str, float]]:
    """What it returns, and the seconds it took: by the clock, and of this process on a CPU, which
    other work on the machine disturbs less."""
    started, cpu = time.perf_counter(), time.process_time()
    result = run()
    taken = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    return result, taken


def quicker(run: Callable[[], Result]) -> tuple[Result, dict[str, float]]:
    """`timed` of two runs, of which the quicker counts: what others are compared with is neither
    the first of a process nor slowed by other work, or the comparison would flatter them."""
    (_, first), (result, second) = timed(run), timed(run)
    return result, {name: min(taken, second[name]) for name, taken in first.items()}


def decibels(squared_error: Tensor) -> float:
    """PSNR of a range of 1 from squared errors of any shape."""
    return min(TOP_DB, quality.decibels(float(squared_error.double().mean())))


def psnr(reference: Tensor, candidate: Tensor) -> float:
    """PSNR in dB."""
    return decibels((reference.double() - candidate.double()).square())


def temporal_psnr(reference: Tensor, candidate: Tensor) -> float:
    """PSNR in dB of the differences between neighbouring frames: flicker and wrong motion, and no
    error that stays as it is."""
    return psnr(reference.double().diff(dim=0), candidate.double().diff(dim=0))


def ssim(reference: Tensor, candidate: Tensor) -> float:
    """SSIM, mean over frames."""
    pairs = zip(reference.double(), candidate.double(), strict=True)
    return statistics.fmean(quality.frame_ssim(a, b) for a, b in pairs)


def moving_region(video: Tensor) -> Tensor:
    """Where a video moves, `(F, H, W)` bool: pixels that change to or from a neighbouring frame,
    and those around them."""
    change = video.diff(dim=0).abs().amax(-1) > MOVING
    moving = torch.zeros(video.shape[:3], dtype=torch.bool)
    moving[1:] |= change
    moving[:-1] |= change
    size = 2 * GROWN + 1
    grown = torch.nn.functional.max_pool2d(moving[:, None].float(), size, 1, GROWN)
    return grown[:, 0] > 0


def compare(reference: Tensor, candidate: Tensor) -> dict[str, float | None]:
    """All measures. One of a region that the reference has not is None.

    `region_gap` is the static region's PSNR less the moving one's.
    """
    moving = moving_region(reference)
    error = (reference.double() - candidate.double()).square()
    regions = [decibels(error[part]) if part.any() else None for part in (moving, ~moving)]
    gap = None if None in regions else regions[1] - regions[0]
    return {
        "psnr": psnr(reference, candidate),
        "ssim": ssim(reference, candidate),
        "temporal_psnr": temporal_psnr(reference, candidate),
        "psnr_moving": regions[0],
        "psnr_static": regions[1],
        "region_gap": gap,
        "moving_share": float(moving.double().mean()),
    }
