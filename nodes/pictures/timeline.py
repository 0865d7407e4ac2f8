"""Pictures with words: what a trace's cells and maps are, for people to read."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...motioncache_core import Trace
from ...motioncache_core.common.decision_kinds import PARTIAL
from ...motioncache_core.common.phrases import phrase
from ...motioncache_core.report.report_text import line
from ...motioncache_core.report.timeline import BACK, REUSED, Cell, cells, shade, size, timeline

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

WORDS, FAINT = (232, 232, 236), (160, 160, 170)
MARGIN = 16
# what the picture shows, for a page in another language: its own words are English
CAPTION = phrase(
    "In the picture: chunks of the video down, evaluations across. The brighter a cell, the more "
    "of it was computed; the number is the percentage. Grey is reused, no cell is not at work."
)
# room left of the cells for the chunks' names, and right of them for their shares
_LEFT, _RIGHT, _TOP, _BOTTOM = 92, 64, 40, 74
_WIDTH = 880
# below this width a cell's number would not fit
_NUMBERED = 20


def colour(rgb: tuple[float, float, float]) -> tuple[int, int, int]:
    """RGB in 0..1 as Pillow wants it."""
    red, green, blue = (round(255 * v) for v in rgb)
    return red, green, blue


def font(points: int) -> Font:
    return ImageFont.load_default(points)


def as_tensor(picture: Image.Image) -> Tensor:
    """`(1, H, W, 3)` in 0..1."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]


def as_picture(image: Tensor) -> Image.Image:
    """The picture of `(H, W, 3)` in 0..1."""
    return Image.fromarray((image.clamp(0, 1).cpu().numpy() * 255).round().astype(np.uint8))


def notice(words: str) -> Tensor:
    """One picture `(1, H, W, 3)` of words, in place of one that cannot be drawn."""
    picture = Image.new("RGB", (512, 256), colour(BACK))
    _write(picture, words)
    return as_tensor(picture)


def _write(picture: Image.Image, words: str) -> None:
    """Words all over a picture, as large as they fit."""
    pen, room = ImageDraw.Draw(picture), (picture.width - 2 * MARGIN, picture.height - 2 * MARGIN)
    # letters are about half as wide as they are high
    for points in range(48, 11, -2):
        text, letters = textwrap.fill(words, 2 * room[0] // points), font(points)
        _, _, right, bottom = pen.textbbox((0, 0), text, font=letters)
        if right <= room[0] and bottom <= room[1]:
            break
    middle = picture.width / 2, picture.height / 2
    pen.multiline_text(middle, text, fill=WORDS, font=letters, anchor="mm", align="center")


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the cells of a timeline are, in pixels."""

    rows: int
    columns: int
    left: int = _LEFT
    top: int = _TOP

    @property
    def width(self) -> int:
        """Of a cell."""
        return min(44, max(6, (_WIDTH - _LEFT - _RIGHT) // self.columns))

    @property
    def height(self) -> int:
        """Of a cell."""
        return min(48, max(16, 240 // self.rows))

    @property
    def right(self) -> int:
        return self.left + self.columns * self.width

    @property
    def bottom(self) -> int:
        return self.top + self.rows * self.height

    def middle(self, row: int, column: int) -> tuple[float, float]:
        x, y = self.left + column * self.width, self.top + row * self.height
        return x + self.width / 2 - 1, y + self.height / 2 - 1

    @property
    def picture(self) -> tuple[int, int]:
        """Width and height of the whole; the legend takes some width too."""
        return max(_WIDTH, self.right + _RIGHT), self.bottom + _BOTTOM


def labelled_timeline(trace: Trace) -> Tensor:
    """The timeline with its legend and its numbers, `(1, H, W, 3)` in 0..1.

    Rows are chunks, columns evaluations; a number is the percentage of the cell's tokens that was
    decided to be computed, behind a row it is the percentage of all its cells' tokens.
    """
    grid = Grid(*size(trace))
    picture = Image.new("RGB", grid.picture, colour(BACK))
    if not trace.evaluations:
        _write(picture, line(trace))
        return as_tensor(picture)
    body = timeline(trace, grid.width, grid.height)[0]
    picture.paste(as_picture(body), (grid.left, grid.top))
    pen = ImageDraw.Draw(picture)
    pen.text((MARGIN, 12), textwrap.shorten(line(trace), 110), fill=WORDS, font=font(15))
    found = cells(trace)
    _numbers(pen, grid, found)
    _axes(pen, grid, found, "window" if trace.windows else "chunk", trace.unit)
    _legend(pen, grid.picture[1] - 26)
    return as_tensor(picture)


def _numbers(pen: ImageDraw.ImageDraw, grid: Grid, found: list[Cell]) -> None:
    """The percentages of partial cells; full and empty ones are known by their colour."""
    if grid.width < _NUMBERED:
        return
    points = min(13, grid.width // 2)
    for cell in found:
        if cell.kind == PARTIAL:
            ink = (0, 0, 0) if cell.share > 0.6 else WORDS
            words = f"{100 * cell.share:.0f}"
            place = grid.middle(cell.row, cell.column)
            pen.text(place, words, fill=ink, font=font(points), anchor="mm")


def _axes(pen: ImageDraw.ImageDraw, grid: Grid, found: list[Cell], kind: str, unit: str) -> None:
    small = font(13)
    for row in range(grid.rows):
        _, y = grid.middle(row, 0)
        name = f"{kind} {row}" if grid.rows > 1 else "clip"
        pen.text((grid.left - 10, y), name, fill=FAINT, font=small, anchor="rm")
        mine = [cell for cell in found if cell.row == row]
        if mine:
            share = sum(c.active for c in mine) / sum(c.tokens for c in mine)
            pen.text((grid.right + 8, y), f"{share:.0%}", fill=WORDS, font=small, anchor="lm")
    # one number every 36 pixels at least
    every = next((n for n in (1, 2, 5, 10, 20, 50) if n * grid.width >= 36), 100)
    for column in range(0, grid.columns, every):
        x, _ = grid.middle(0, column)
        pen.text((x, grid.bottom + 4), str(column + 1), fill=FAINT, font=small, anchor="mt")
    pen.text((MARGIN, grid.bottom + 4), unit, fill=FAINT, font=small, anchor="lt")


def _legend(pen: ImageDraw.ImageDraw, y: int) -> None:
    small, x = font(13), MARGIN
    for name, fill in (("dense", shade(1.0)), ("reused", REUSED)):
        pen.rectangle((x, y, x + 18, y + 14), fill=colour(fill))
        pen.text((x + 26, y + 7), name, fill=WORDS, font=small, anchor="lm")
        x += 96
    pen.text((x, y + 7), "partial, % computed", fill=WORDS, font=small, anchor="lm")
    x += 136
    bar(pen, (x + 16, y, 200, 14), shade, ("0", "100"), small)
    x += 272
    pen.rectangle((x, y, x + 18, y + 14), outline=FAINT)
    pen.text((x + 26, y + 7), "not at work", fill=WORDS, font=small, anchor="lm")


def bar(
    pen: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    shades: Callable[[float], tuple[float, float, float]],
    ends: tuple[str, str],
    letters: Font,
) -> None:
    """A colour bar in `box` (left, top, width, height), with what its two ends mean beside it."""
    left, top, width, height = box
    for i in range(width):
        fill = colour(shades(i / (width - 1)))
        pen.line((left + i, top, left + i, top + height), fill=fill)
    y = top + height / 2
    pen.text((left - 6, y), ends[0], fill=FAINT, font=letters, anchor="rm")
    pen.text((left + width + 6, y), ends[1], fill=FAINT, font=letters, anchor="lm")
