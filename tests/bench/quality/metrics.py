"""How close a video stays to the uncached one: everywhere, over time, where it moves, where not.

Videos are `(F, H, W, 3)` in 0..1, decibels relative to a range of 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch
from motioncache_pack.motioncache_core.report import video_quality as quality
from torch import Tensor

# where decibels end, which stands for equal videos
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


def psnr(reference: Tensor, candidate: Tensor) -> float:
    """PSNR in dB."""
    error = (reference.double() - candidate.double()).square().mean()
    return min(TOP_DB, quality.decibels(float(error)))


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


def compare(
    reference: Tensor, candidate: Tensor, top: float | None = TOP_DB
) -> dict[str, float | None]:
    """All measures, frame by frame to spare memory; None where one has no number: changes of a
    single frame, a region that the reference has not.

    `region_gap` is the static region's PSNR less the moving one's.

    Args:
        top: where decibels end; None: equal videos have none.

    Raises:
        ImageError: they cannot be compared.
    """
    errors, counts = [0.0, 0.0], [0, 0]
    found = quality.compare(reference, candidate)
    for index in range(len(reference)):
        first = max(0, index - 1)
        # a frame's region depends on its neighbours only
        moving = moving_region(reference[first : index + 2])[index - first]
        error = (reference[index].double() - candidate[index].double()).square().mean(-1)
        for which, region in enumerate((moving, ~moving)):
            errors[which] += float(error[region].sum())
            counts[which] += int(region.sum())

    def told(db: float | None) -> float | None:
        if db is None or top is not None:
            return db if db is None else min(top, db)
        return None if db == float("inf") else db

    moved, still = (
        told(quality.decibels(e / n)) if n else None for e, n in zip(errors, counts, strict=True)
    )
    return {
        "identical": found.identical,
        "psnr": told(found.psnr),
        "ssim": found.ssim,
        "temporal_psnr": told(found.temporal_psnr),
        "psnr_moving": moved,
        "psnr_static": still,
        "region_gap": None if moved is None or still is None else still - moved,
        "moving_share": counts[0] / sum(counts),
        "worst_frame": found.worst,
        "worst_psnr": told(found.frames[found.worst].psnr),
    }
