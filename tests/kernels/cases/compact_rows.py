from __future__ import annotations

import torch

from . import Case, Sizes


def case(sizes: Sizes) -> Case:
    mask = torch.zeros(sizes.length, device=sizes.device, dtype=torch.uint8)
    mask[torch.randperm(sizes.length, device=sizes.device)[: sizes.count]] = 1
    return Case("compact_rows", lambda: (mask,), 9 * sizes.length, small=True)


CASES = {"": case}
