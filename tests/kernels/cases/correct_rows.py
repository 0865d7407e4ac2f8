from __future__ import annotations

import torch

from . import Case, Sizes, rows_of


def case(sizes: Sizes, near: int = 44) -> Case:
    """Every token that is not computed, from the computed ones before and after it in its row of
    the frame."""
    pred, new = rows_of(sizes, sizes.length), rows_of(sizes, sizes.count)
    order = torch.randperm(sizes.length, device=sizes.device)
    chosen, targets = order[: sizes.chosen].sort().values, order[sizes.chosen :].sort().values
    rows = torch.nn.functional.pad(chosen, (0, sizes.padding), value=-1).to(torch.int32)
    around = torch.arange(-near // 2, near // 2, device=sizes.device)
    sources = torch.searchsorted(chosen, targets)[:, None] + around
    sources = sources.masked_fill((sources < 0) | (sources >= sizes.chosen), -1).to(torch.int32)
    weight = torch.rand((sizes.batch, *sources.shape), device=sizes.device) / near
    targets = targets.to(torch.int32)
    moved = (
        2 * sizes.nbytes(len(targets))
        + (2 * sizes.nbytes(sizes.chosen) if len(targets) else 0)
        + sources.nbytes
        + weight.nbytes
    )
    return Case("correct_rows", lambda: (pred, new, rows, targets, sources, weight), moved)


def few_sources(sizes: Sizes) -> Case:
    return case(sizes, near=8)


CASES = {"": case, "few_sources": few_sources}
