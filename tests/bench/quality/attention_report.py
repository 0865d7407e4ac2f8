"""The figures of the bench `attention.py` as Markdown."""

from __future__ import annotations

import functools
from typing import Any

from quality.tables import cell, table

AT_WORK = "chunks at work only"
CLOSER = "block-causal over bidirectional, to the clip as drawn"
NOTE = (
    "PSNR in dB, mean over clips with its 95 % interval; of reuse to the uncached video of the "
    "same attention, differences clip by clip. *Work* is a share of the uncached bidirectional "
    "run's."
)


def markdown(found: dict[str, Any]) -> str:
    """The figures as tables."""
    clips = found["clips"]
    show = functools.partial(cell, clips=clips, digits=1)
    percent = {name: f"{row['work']['mean']:.0%}" for name, row in found["uncached"].items()}
    videos = [
        [f"{name}, uncached", percent[name], show(row["to_clip_as_drawn"]), ""]
        for name, row in found["uncached"].items()
    ]
    left = found[AT_WORK]
    usual = found["preset"]
    for what, run in ((AT_WORK, left), (f"compute_budget {usual['budget']}", usual)):
        videos.insert(
            -1, [f"bidirectional, {what}", f"{run['work']['mean']:.0%}", "", show(run["psnr"])]
        )
    videos[-1][3] = show(found["between_uncached"])
    videos.append(["block-causal over bidirectional", "", show(found[CLOSER], sign=True), ""])
    shares = list(found["reuse"][0]["at"])
    reuse = [
        [f"{row['policy']}, {row['attention']}", *(show(row["at"][s]) for s in shares)]
        for row in found["reuse"]
    ]
    over = [
        [f"{d['policy']} over {d['over']}", *(show(d["at"][s], sign=True) for s in shares)]
        for d in found["differences"]
    ]
    return "\n\n".join(
        (
            table(["run", "work", "to the clip as drawn", "to bidirectional, uncached"], videos),
            table(["reuse, at work of", *shares], reuse + over),
        )
    )
