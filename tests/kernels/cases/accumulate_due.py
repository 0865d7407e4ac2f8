from __future__ import annotations

from typing import Any

import torch

from . import Case, Sizes


def case(sizes: Sizes, weighted: bool = True, **changed: Any) -> Case:
    accumulator = torch.rand(sizes.length, device=sizes.device)
    stale = torch.randint(0, 9, (sizes.length,), device=sizes.device, dtype=torch.int32)
    distance = torch.full((1,), 0.1, device=sizes.device)
    weight = torch.rand(sizes.length, device=sizes.device) if weighted else None
    named = {
        "frames": sizes.frames,
        "threshold": 0.5,
        "agreement": 0.5,
        "min_update_ratio": 0.1,
        "max_stale_steps": 8,
    }
    # accumulator, stale read and written, weight read, due written
    moved = (21 if weighted else 17) * sizes.length
    return Case(
        "accumulate_due",
        lambda: (accumulator.clone(), stale.clone(), distance, weight),
        moved,
        named | changed,
        small=True,
    )


def each_token(sizes: Sizes) -> Case:
    return case(sizes, agreement=-1.0)


def uniform(sizes: Sizes) -> Case:
    none = {"agreement": -1.0, "min_update_ratio": 0.0, "max_stale_steps": 0}
    return case(sizes, weighted=False, frames=1, **none)


CASES = {"": case, "each_token": each_token, "uniform": uniform}
