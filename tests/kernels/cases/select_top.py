from __future__ import annotations

import torch

from . import Case, Sizes


def case(sizes: Sizes) -> Case:
    # a coarse grid: many scores are equal
    score = (100 * torch.randn(sizes.length, device=sizes.device)).round()
    count = torch.full((1,), sizes.count, device=sizes.device, dtype=torch.int32)
    return Case("select_top", lambda: (score, count), 5 * sizes.length, small=True)


CASES = {"": case}
