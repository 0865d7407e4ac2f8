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
# 8 divides no array of this length, so that its loads are narrow; small ops only
ODD = clip(1575, 9984)


def all_calls() -> Iterator[tuple[str, str, int, Sizes, Case]]:
    """Every call: its clip, its name, its width, 0 where that says nothing, sizes and case."""
    for label, make in CASES.items():
        case = make(ODD)
        op, small = case.op, case.small
        call = label.removeprefix(op).lstrip("_")
        if small:
            yield "odd", f"{call} odd".strip(), 0, ODD, case
        for clip_name, sizes in CLIPS.items():
            if small:
                yield clip_name, call, 0, sizes, make(sizes)
                continue
            for dtype, channels in WIDTHS:
                wide = replace(sizes, dtype=dtype, channels=channels)
                yield clip_name, call, channels, wide, make(wide)
                if op == "gather_rows":
                    one = replace(wide, batch=1)
                    yield clip_name, f"{call} one sample".strip(), channels, one, make(one)
            # a list is read alike at every width
            if op in LISTED:
                own = replace(sizes, lists=sizes.batch)
                yield clip_name, f"{call} own lists".strip(), sizes.channels, own, make(own)
