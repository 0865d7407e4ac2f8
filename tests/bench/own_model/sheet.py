"""A contact sheet of one clip: a row for each policy, frames across, and the error of one frame."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from motioncache_pack.motioncache_core import quality
from motioncache_pack.motioncache_core.heatmap import colourise
from PIL import Image, ImageDraw, ImageFont

# an error of one part in GAIN is the brightest colour
GAIN = 8
COLORMAP = "magma"
CELL, GAP, LABELS, TOP = 220, 6, 230, 60
BACK, WORDS, FAINT = (24, 24, 28), (232, 232, 236), (160, 160, 170)
SIZE, SMALL = 17, 13


@dataclass(frozen=True)
class Row:
    """A policy's part of a sheet.

    Attributes:
        lines: what is said about it below its name.
        frames: pictures by frame index; none where the run failed.
    """

    name: str
    lines: Sequence[str]
    frames: dict[int, Path]


def draw(title: str, reference: dict[int, Path], rows: Sequence[Row]) -> Image.Image:
    """The sheet; its first row is the uncached video.

    Args:
        reference: the uncached frames that are shown.
    """
    indices = sorted(reference)
    middle = indices[len(indices) // 2]
    width, height = _cell(reference[middle])
    columns = len(indices) + 1
    sheet = Image.new(
        "RGB",
        (LABELS + columns * (width + GAP), TOP + (len(rows) + 1) * (height + GAP)),
        BACK,
    )
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP * 2, GAP), _cut(title, sheet.width - 4 * GAP), fill=WORDS, font=_font(SIZE))
    for i, index in enumerate(indices):
        pen.text((_left(i, width), TOP - 24), f"frame {index}", fill=FAINT, font=_font(SMALL))
    said = f"error of frame {middle}, x{GAIN}"
    pen.text((_left(columns - 1, width), TOP - 24), said, fill=FAINT, font=_font(SMALL))
    uncached = Row("none", ["the uncached video"], reference)
    for number, row in enumerate((uncached, *rows)):
        top = TOP + number * (height + GAP)
        _label(pen, row, top, height)
        for i, index in enumerate(indices):
            if index in row.frames:
                picture = Image.open(row.frames[index]).convert("RGB").resize((width, height))
                sheet.paste(picture, (_left(i, width), top))
        left = _left(columns - 1, width)
        if number and middle in row.frames:
            error = _error(reference[middle], row.frames[middle]).resize((width, height))
            sheet.paste(error, (left, top))
        elif not number:
            _scale(pen, left, top, width, height)
    return sheet


def _cell(path: Path) -> tuple[int, int]:
    """Width and height of a picture on the sheet."""
    with Image.open(path) as picture:
        shrunk = CELL / max(picture.size)
        return max(1, round(picture.width * shrunk)), max(1, round(picture.height * shrunk))


def _left(column: int, width: int) -> int:
    return LABELS + column * (width + GAP)


def _label(pen: ImageDraw.ImageDraw, row: Row, top: int, height: int) -> None:
    """Name and lines, as many as there is room for."""
    pen.text((GAP * 2, top + 4), _cut(row.name, LABELS - 4 * GAP), fill=WORDS, font=_font(SIZE))
    room = max(1, (height - 30) // (SMALL + 4))
    lines = [part for line in row.lines for part in textwrap.wrap(line, 30)]
    if len(lines) > room:
        lines = [*lines[: room - 1], f"{lines[room - 1][:27]}..."]
    for i, line in enumerate(lines):
        pen.text((GAP * 2, top + 28 + i * (SMALL + 4)), line, fill=FAINT, font=_font(SMALL))


def _scale(pen: ImageDraw.ImageDraw, left: int, top: int, width: int, height: int) -> None:
    """What the colours of the errors mean, in the cell that has no error."""
    low = top + height // 2 - 8
    for x in range(width):
        red, green, blue = (colourise(np.float32(x / max(1, width - 1)), COLORMAP) * 255).tolist()
        pen.line((left + x, low, left + x, low + 16), (int(red), int(green), int(blue)))
    pen.text((left, low + 20), "0", fill=FAINT, font=_font(SMALL))
    end = f"{round(255 / GAIN)} of 255"
    room = pen.textlength(end, font=_font(SMALL))
    pen.text((left + width - room, low + 20), end, fill=FAINT, font=_font(SMALL))


def _error(reference: Path, candidate: Path) -> Image.Image:
    a, b = (
        torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).float() / 255
        for path in (reference, candidate)
    )
    shown = colourise(quality.error_map(a, b, GAIN).numpy(), COLORMAP)
    return Image.fromarray((shown * 255).round().astype(np.uint8))


def _cut(words: str, room: int) -> str:
    """The words, cut to a width in pixels."""
    font = _font(SIZE)
    if font.getlength(words) <= room:
        return words
    while words and font.getlength(f"{words}...") > room:
        words = words[:-1]
    return f"{words}..."


def _font(points: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(points)
