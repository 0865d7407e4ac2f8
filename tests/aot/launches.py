"""What production launches: the cases of every op at Wan's sizes, on tensors without memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from motioncache_pack.tests.kernels.cases import CASES, Case, Sizes

# the 1.3B and the 14B model run in bf16; fp32 is for those who ask for it
WIDTHS = ((torch.bfloat16, 1536), (torch.bfloat16, 5120), (torch.float32, 1536))
# ops whose kernels read a list for all batch rows otherwise than one for each
LISTED = ("gather_rows", "scatter_kv", "scatter_residual")


def clip(tokens: int, active: int) -> Sizes:
    """81 frames of video, by the tokens of a latent frame and the rows of a partial evaluation."""
    return Sizes("meta", torch.bfloat16, 2, 21, tokens, 1536, active)


CLIPS = {"832x480": clip(1560, 9856), "1280x720": clip(3600, 22784)}
# 8 divides no array of this length, so that its loads are narrow; kernels of [L] arrays only
ODD = {"odd": clip(1575, 9984)}


def all_calls() -> Iterator[tuple[str, str, int, Sizes, Case]]:
    """Every call: its clip, its name, its width, 0 where that says nothing, sizes and case."""
    for label, make in CASES.items():
        for name, sizes in (CLIPS | ODD).items():
            case = make(sizes)
            if case.small:
                yield name, label if name in CLIPS else f"{label} odd", 0, sizes, case
        if case.small:
            continue
        for name, sizes in CLIPS.items():
            for dtype, channels in WIDTHS:
                one = replace(sizes, dtype=dtype, channels=channels)
                yield name, label, channels, one, make(one)
            if not label.startswith(LISTED):
                continue
            # one branch alone, and lists of their own, which are read alike at every width
            for note, one in (("one sample", {"batch": 1}), ("own lists", {"lists": 2})):
                one = replace(sizes, **one)
                yield name, f"{label} {note}", 1536, one, make(one)
