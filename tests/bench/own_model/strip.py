"""One frame of a clip without and with every policy, side by side, to be shown to others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from own_model.sheet import BACK, FAINT, GAP, WORDS, Row, font
from PIL import Image, ImageDraw, ImageOps

CELL, TOP, BOTTOM, LARGE, SMALL = 360, 52, 76, 24, 18


def draw(title: str, reference: dict[int, Path], rows: Sequence[Row]) -> Image.Image:
    """The strip: the uncached frame in the middle of those given, then that of every row.

    Args:
        reference: the uncached frames by index.
        rows: those without this frame are left out.
    """
    indices = sorted(reference)
    middle = indices[len(indices) // 2]
    uncached = Row("without MotionCache", [f"frame {middle}"], reference)
    shown = [uncached, *(row for row in rows if middle in row.frames)]
    width, height = ImageOps.contain(Image.open(reference[middle]), (CELL, CELL)).size
    strip = Image.new("RGB", (len(shown) * (width + GAP) - GAP, TOP + height + BOTTOM), BACK)
    pen = ImageDraw.Draw(strip)
    pen.text((GAP * 2, TOP / 2), title, fill=WORDS, font=font(LARGE), anchor="lm")
    for number, row in enumerate(shown):
        left = number * (width + GAP)
        with Image.open(row.frames[middle]) as picture:
            strip.paste(picture.convert("RGB").resize((width, height)), (left, TOP))
        below = TOP + height + 8
        pen.text((left + GAP, below), row.name, fill=WORDS, font=font(LARGE))
        pen.text((left + GAP, below + 34), ", ".join(row.lines), fill=FAINT, font=font(SMALL))
    return strip
