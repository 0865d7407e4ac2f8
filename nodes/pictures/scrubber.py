"""The maps of a whole run, small enough for the page to scrub through them."""

from __future__ import annotations

import io
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from ...motioncache_core import NoMapError, Trace
from ...motioncache_core.common.phrases import as_data, phrase
from ...motioncache_core.report.colours import anchors
from ...motioncache_core.report.motion_map import (
    VIEWS,
    first_frame,
    frames_below,
    mapped_steps,
    maps,
    scale,
    shown_evaluations,
)
from ..host.files import keep_for_page
from .motion_map import spread
from .timeline import as_picture

Bytes = npt.NDArray[np.uint8]

# the entry of a node's ui output
KEY = "motioncache_map"
# the entry of why there is none
UNSEEN = "motioncache_no_map"
# bytes of all maps together, and of the frames below them
MAPS, FRAMES = 700_000, 250_000
# pixels to a side that every browser's canvas takes
SIDE = 8192
# evaluations are left out first, frames only when no more than these are left
FEWEST = 8
_LONGEST = 256


def scrub_data(
    trace: Trace,
    view: str,
    step: int,
    colormap: str,
    images: Tensor | None,
    opacity: float,
    upscale: str,
    sheet: dict[str, str],
    whole: bool,
) -> dict[str, Any] | None:
    """What `web/js/motion_map.js` shows; None where the run has no map at all.

    Every view is one grey picture in ComfyUI's temp folder: its evaluations down, latent frames
    across, a pixel a token. Evaluations and frames are left out evenly where all views together
    would take more than `MAPS` bytes; `all` and `of` in the result say of how many.

    Args:
        view, step: to begin with; a negative step is the last one.
        images, opacity, upscale: as for `render`.
        sheet: the file of the node's own preview, which is one more view.
        whole: begin with that one.
    """
    stacks, missing = {}, {}
    for name in VIEWS:
        try:
            stacks[name] = _stack(trace, name)
        except NoMapError as why:
            missing[name] = as_data(phrase("{why}.", why=why.args[0]))
    if not stacks:
        return None
    steps, frames, files = _fitting(stacks)
    first = first_frame(trace)
    records = shown_evaluations(trace)
    grid = next(iter(stacks.values()))[1].shape
    return {
        "grid": list(grid[2:]),
        "frames": [first + f for f in frames],
        "chunks": _chunk_of(trace, frames),
        "of": {"frames": grid[1], "steps": len(records)},
        "views": {
            name: {
                "file": keep_for_page(data, name, "png"),
                "steps": steps[name],
                "all": len(stacks[name][0]),
                "legend": asdict(scale(trace, name, stacks[name][0])),
            }
            for name, data in files.items()
        },
        "evaluations": [
            {"sigma": round(r.sigma, 4), "kind": r.kind, "active": round(r.active_share, 4)}
            for r in records
        ],
        "colors": anchors(colormap),
        # views without a map, and why
        "missing": missing,
        "unit": trace.unit,
        "view": "sheet" if whole else view,
        "step": step,
        "smooth": upscale == "smooth",
        "opacity": opacity,
        "sheet": sheet,
        "below": None if images is None else _below(frames_below(trace, images)[frames]),
    }


def _stack(trace: Trace, view: str) -> tuple[list[int], Bytes]:
    """All maps of a view `(steps, F, h, w)`, 0..1 as 0..255, and the evaluations they are of."""
    steps = mapped_steps(trace, view)
    found = [np.round(255 * shown).astype(np.uint8) for shown in maps(trace, view, steps)]
    return steps, np.stack(found)


def _chunk_of(trace: Trace, frames: list[int]) -> list[int]:
    """The chunk of the clip that each frame is in."""
    first = shown_evaluations(trace)[-1].first_chunk
    of = np.repeat(np.arange(len(trace.chunks)), trace.chunks)
    return [first + int(of[f]) for f in frames]


def _fitting(
    stacks: dict[str, tuple[list[int], Bytes]], most: int = MAPS
) -> tuple[dict[str, list[int]], list[int], dict[str, bytes]]:
    """Evaluations of every view, frames, and the views' pictures, no more bytes than `most`."""
    shapes = [maps.shape for _, maps in stacks.values()]
    _, count, height, width = shapes[0]
    down = min(max(s[0] for s in shapes), max(1, SIDE // height))
    across = min(count, max(1, SIDE // width))
    while True:
        frames = spread(range(count), across)
        rows = {name: spread(range(len(steps)), down) for name, (steps, _) in stacks.items()}
        files = {name: _png(stacks[name][1][at][:, frames]) for name, at in rows.items()}
        size = sum(map(len, files.values()))
        if size <= most or (down == 1 and across == 1):
            break
        share = 0.95 * most / size
        fewest = min(down, FEWEST)
        if down > fewest:
            down = max(fewest, int(down * share))
        elif across > 1:
            across = max(1, int(across * share))
        else:
            down = max(1, int(down * share))
    steps = {name: [stacks[name][0][i] for i in at] for name, at in rows.items()}
    return steps, frames, files


def _png(maps: Bytes) -> bytes:
    steps, frames, height, width = maps.shape
    sheet = maps.transpose(0, 2, 1, 3).reshape(steps * height, frames * width)
    return _encoded(Image.fromarray(sheet), "PNG", compress_level=4)


def _below(frames: Tensor) -> dict[str, Any]:
    """Decoded frames `(F, H, W, 3)` as one picture, row by row."""
    height, width = frames.shape[1:3]
    columns = math.ceil(math.sqrt(len(frames)))
    longest = min(_LONGEST, max(height, width))
    while True:
        share = longest / max(height, width)
        size = max(1, round(width * share)), max(1, round(height * share))
        rows = math.ceil(len(frames) / columns)
        sheet = Image.new("RGB", (columns * size[0], rows * size[1]))
        for i, frame in enumerate(frames):
            place = i % columns * size[0], i // columns * size[1]
            sheet.paste(as_picture(frame).resize(size, Image.Resampling.BOX), place)
        data = _encoded(sheet, "JPEG", quality=85)
        if len(data) <= FRAMES or longest <= 32:
            return {"file": keep_for_page(data, "frames", "jpg"), "size": size, "columns": columns}
        longest //= 2


def _encoded(picture: Image.Image, kind: str, **how: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **how)
    return out.getvalue()
