"""Motion maps on one sheet: with gaps, captions and a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from ...motioncache_core import Trace
from ...motioncache_core.report.colours import colour_at
from ...motioncache_core.report.motion_map import (
    Scale,
    first_frame,
    mapped_steps,
    render,
    render_steps,
    scale,
    which_step,
)
from ...motioncache_core.report.timeline import BACK
from .timeline import FAINT, MARGIN, WORDS, as_picture, as_tensor, bar, colour, font

# of a sheet, in pixels; one whose pictures have much in them is wide. It is shown at one size
# whatever its own, so words grow with it
_WIDTH, _WIDE, _MUCH = 640, 1120, 3000
# rows and columns of a sheet over the steps, at most
STEPS, FRAMES = 8, 9


def frames_sheet(
    trace: Trace,
    view: str,
    step: int,
    colormap: str,
    images: Tensor | None,
    opacity: float,
    upscale: str = "nearest",
) -> Tensor:
    """The latent frames of one evaluation, `(1, H, W, 3)` in 0..1.

    Raises:
        NoMapError, MotionCacheError: see `render`.
    """
    index = which_step(trace, view, step)
    maps = render(trace, view, step, colormap, images, opacity, upscale=upscale)
    start, count = first_frame(trace), maps.shape[0]
    # nodes have more room to the side than down
    columns = math.ceil(math.sqrt(2.4 * count * maps.shape[1] / maps.shape[2]))
    # no more columns than the rows need
    columns = math.ceil(count / math.ceil(count / columns))
    # people count from 1
    names = [f"frame {start + i + 1}" for i in range(count)]
    rows = range(0, count, columns)
    return _sheet(
        [list(maps[i : i + columns]) for i in rows],
        [names[i : i + columns] for i in rows],
        [],
        f"{view}, {trace.unit} {index + 1}",
        scale(trace, view, [index]),
        colormap,
    )


def steps_sheet(
    trace: Trace,
    view: str,
    colormap: str,
    images: Tensor | None,
    opacity: float,
    upscale: str = "nearest",
) -> Tensor:
    """Evaluations down, latent frames across, `(1, H, W, 3)` in 0..1; spread over those that have a
    map, in the same colours.

    Raises:
        NoMapError, MotionCacheError: see `render`.
    """
    found = mapped_steps(trace, view)
    steps = spread(found, STEPS)
    maps = render_steps(trace, view, steps, colormap, images, opacity, upscale=upscale)
    start, shown = first_frame(trace), spread(range(maps[0].shape[0]), FRAMES)
    names = [f"frame {start + i + 1}" for i in shown]
    return _sheet(
        [[m[i] for i in shown] for m in maps],
        [names],
        [f"{trace.unit} {s + 1}" for s in steps],
        f"{view}, {len(steps)} of {len(found)} {trace.unit}s",
        scale(trace, view, steps),
        colormap,
    )


def spread(numbers: Sequence[int], most: int) -> list[int]:
    """At most so many of the numbers, evenly, with the first and the last."""
    at = np.linspace(0, len(numbers) - 1, min(most, len(numbers))).round().astype(int)
    return [numbers[i] for i in at]


def with_legend(maps: Tensor, trace: Trace, view: str, step: int, colormap: str) -> list[Tensor]:
    """Each of the maps `(F, H, W, 3)` above the legend, a sheet of its own."""
    index = which_step(trace, view, step)
    start, legend = first_frame(trace), scale(trace, view, [index])
    return [
        _sheet([[m]], [], [], f"{view}, {trace.unit} {index + 1}, frame {i}", legend, colormap)
        for i, m in enumerate(maps, start=start + 1)
    ]


def _sheet(
    maps: Sequence[Sequence[Tensor]],
    captions: Sequence[Sequence[str]],
    names: Sequence[str],
    title: str,
    legend: Scale,
    colormap: str,
) -> Tensor:
    """Rows of pictures of one size.

    Args:
        captions: above the pictures: of every row, of the first row only, or none.
        names: left of the rows; none for no room there.
        title: beside the legend.
    """
    columns = max(map(len, maps))
    height, width = maps[0][0].shape[:2]
    whole = _WIDE if columns * width > _MUCH else _WIDTH
    small = font(whole // 44)
    line = round(1.6 * whole / 44)
    gap, pen = whole // 80, ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = MARGIN + round(max((pen.textlength(n, font=small) + gap for n in names), default=0))
    room = (whole - left - MARGIN + gap) // columns - gap
    # a few tall pictures would make the sheet too high
    wide = min(room, round(1.5 * whole / len(maps) * width / height))
    tall = round(wide * height / width)
    # captions that would run into each other are thinned out
    longest = max((pen.textlength(c, font=small) for row in captions for c in row), default=0)
    every = math.ceil((longest + gap) / (wide + gap))
    tops, y = [], MARGIN
    for row in range(len(maps)):
        y += line if row < len(captions) else 0
        tops.append(y)
        y += tall + gap
    size = max(whole, left + columns * (wide + gap) - gap + MARGIN), y + 2 * line
    picture = Image.new("RGB", size, colour(BACK))
    pen = ImageDraw.Draw(picture)
    # tokens keep their edges, frames do not get any
    how = Image.Resampling.NEAREST if wide >= width else Image.Resampling.BOX
    for row, (top, parts) in enumerate(zip(tops, maps, strict=True)):
        for column, part in enumerate(parts):
            x = left + column * (wide + gap)
            picture.paste(as_picture(part).resize((wide, tall), how), (x, top))
            words = captions[row][column] if row < len(captions) else ""
            fits = x + pen.textlength(words, font=small) <= size[0]
            if column % every == 0 and fits:
                pen.text((x, top - line // 4), words, fill=FAINT, font=small, anchor="ls")
        if names:
            pen.text((MARGIN, top + tall / 2), names[row], fill=FAINT, font=small, anchor="lm")

    words = f"{title}:  {legend.title}"
    middle = size[1] - line
    pen.text((MARGIN, middle), words, fill=WORDS, font=small, anchor="lm")
    x = MARGIN + pen.textlength(f"{words}   {legend.low}", font=small) + gap
    bar(
        pen, (round(x), middle - line // 3, whole // 6, 2 * line // 3),
        partial(colour_at, colormap=colormap), (legend.low, legend.high), small,
    )  # fmt: skip
    return as_tensor(picture)
