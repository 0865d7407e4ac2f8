"""A contact sheet of one clip: a row for each policy, frames across, and the error of one frame."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from motioncache_pack.motioncache_core.report import video_quality as quality
from motioncache_pack.motioncache_core.report.colours import colourise
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

# an error of one part in GAIN is the brightest colour
GAIN = 8
COLORMAP = "magma"
CELL, GAP, LABELS, TOP = 220, 6, 230, 60
BACK, WORDS, FAINT = (24, 24, 28), (232, 232, 236), (160, 160, 170)
SIZE, SMALL = 17, 13
font = cache(ImageFont.load_default)


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
    width, height = ImageOps.contain(Image.open(reference[middle]), (CELL, CELL)).size
    left = [LABELS + column * (width + GAP) for column in range(len(indices) + 2)]
    size = left[-1], TOP + (len(rows) + 1) * (height + GAP)
    sheet = Image.new("RGB", size, BACK)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP * 2, GAP), title, fill=WORDS, font=font(SIZE))
    told = [f"frame {index}" for index in indices]
    told.append(f"error of frame {middle}, to {round(255 / GAIN)} of 255")
    for x, words in zip(left, told, strict=False):
        pen.text((x, TOP - 24), words, fill=FAINT, font=font(SMALL))
    uncached = Row("none", ["the uncached video"], reference)
    for number, row in enumerate((uncached, *rows)):
        top = TOP + number * (height + GAP)
        _label(pen, row, top, height)
        shown = {i: Image.open(row.frames[i]).convert("RGB") for i in indices if i in row.frames}
        pictures = {x: shown[i] for x, i in zip(left, indices, strict=False) if i in shown}
        if number and middle in shown:
            pictures[left[-2]] = _error(reference[middle], row.frames[middle])
        for x, picture in pictures.items():
            sheet.paste(picture.resize((width, height)), (x, top))
    return sheet


def _label(pen: ImageDraw.ImageDraw, row: Row, top: int, height: int) -> None:
    """Name and lines, as many as there is room for."""
    pen.text((GAP * 2, top + 4), row.name, fill=WORDS, font=font(SIZE))
    room = max(1, (height - 30) // (SMALL + 4))
    lines = [part for line in row.lines for part in textwrap.wrap(line, 30)]
    if len(lines) > room:
        lines = [*lines[: room - 1], f"{lines[room - 1][:27]}..."]
    for i, line in enumerate(lines):
        pen.text((GAP * 2, top + 28 + i * (SMALL + 4)), line, fill=FAINT, font=font(SMALL))


def _error(*paths: Path) -> Image.Image:
    a, b = (_pixels(path) for path in paths)
    shown = colourise(quality.error_map(a, b, GAIN).numpy(), COLORMAP)
    return Image.fromarray((shown * 255).round().astype(np.uint8))


def _pixels(path: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).float() / 255
