"""Two videos and their error in one picture, frame by frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ...motioncache_core import MotionCacheError
from ...motioncache_core.common.phrases import phrase
from ...motioncache_core.report.colours import colour_at, colourise
from ...motioncache_core.report.timeline import BACK
from ...motioncache_core.report.video_quality import (
    Comparison,
    error_map,
    fitting_gain,
    headline,
    in_words,
)
from .timeline import MARGIN, WORDS, Font, as_picture, as_tensor, bar, colour, font

MODES = ("side by side", "wipe", "difference")
WITHOUT, WITH = "without MotionCache", "with MotionCache"
# what is where on the pictures, for a page in another language: their own words are English
CAPTIONS = {
    "side by side": phrase("left to right: without MotionCache, with it, error"),
    "wipe": phrase("left of the line without MotionCache, right of it with"),
    "difference": phrase("the error of the video with MotionCache"),
}
COLORMAP = "magma"
_GAP = 8
# smaller frames are enlarged by a whole number, so that words fit below them
_NARROWEST = 224
# of the preview, in pixels
_PREVIEW = 1120


class ComparePictures:
    """Draws frames of a comparison; every picture has an even width and height.

    Args:
        reference, candidate: videos `(F, H, W, C)` in 0..1 of one shape, without and with
            MotionCache.
        mode: "side by side" both and their error, "wipe" the reference left of a line and the
            candidate right of it, "difference" the error alone.
        gain: what errors are multiplied by before they are shown; 0 takes what fits.
        position: where the line of "wipe" is, 0 left to 1 right.

    Raises:
        MotionCacheError: no such mode, or a number out of range.
    """

    def __init__(
        self, reference: Tensor, candidate: Tensor, found: Comparison,
        mode: str, gain: float, position: float,
    ) -> None:  # fmt: skip
        if mode not in MODES:
            allowed = ", ".join(map(repr, MODES))
            raise MotionCacheError(f"mode is {mode!r}; allowed are {allowed}")
        # values that come over a wire have not been looked at by the host
        if not 0 <= position <= 1:
            raise MotionCacheError(
                f"position is {position:g}; give a number from 0 (left) to 1 (right)"
            )
        if not 0 <= gain < math.inf:
            raise MotionCacheError(f"gain is {gain:g}; give a number above 0, or 0 for what fits")
        self._videos, self._found = (reference, candidate), found
        self._mode, self._position = mode, position
        self._gain = gain or fitting_gain(reference, candidate)
        height, width = reference.shape[1:3]
        self._scale = math.ceil(_NARROWEST / width)
        self._panel = width * self._scale, height * self._scale
        self._columns = 3 if mode == "side by side" else 1
        points = min(28, self._panel[0] // 12)
        self._font, self._line = font(points), round(1.7 * points)
        # numbers and colour bar are below each other where they have one panel's width
        self._rows = 2 if mode == "difference" else 1
        wide = self._columns * (self._panel[0] + _GAP) - _GAP
        tall = self._panel[1] + (1 + self._rows) * self._line
        self.size = wide + wide % 2, tall + tall % 2

    def all(self) -> Tensor:
        """Every frame, `(F, H, W, 3)` in 0..1."""
        frames = self._videos[0].shape[0]
        out = torch.empty(frames, self.size[1], self.size[0], 3)
        for index in range(frames):
            out[index] = as_tensor(self.frame(index))[0]
        return out

    def preview(self, said: str = "", *about: str) -> Tensor:
        """The worst frame and the last on one sheet, `(1, H, W, 3)` in 0..1, and the first where
        there is room.

        Args:
            said: put above them in large letters.
            about: lines below that.
        """
        last = self._videos[0].shape[0] - 1
        chosen = sorted({0, self._found.worst, last})
        if self._columns > 1 and len(chosen) > 2:
            # a third row would make all of them small
            chosen = chosen[1:]
        across = 1 if self._columns > 1 else len(chosen)
        wide = min(self.size[0], (_PREVIEW - (across - 1) * _GAP) // across)
        # small frames are not shown smaller than the node is wide
        wide = max(wide, 640) if across == 1 else wide
        tall = round(wide * self.size[1] / self.size[0])
        down = math.ceil(len(chosen) / across)
        room = across * (wide + _GAP) - _GAP - 2 * MARGIN
        words = [*about, headline(self._found)]
        lines = [(line, _fitting([line], font(22), room), 40) for line in words]
        if said:
            lines.insert(0, (said, _fitting([said], font(30), room), 52))
        top = sum(tall for *_, tall in lines)
        whole = across * (wide + _GAP) - _GAP, top + down * (tall + _GAP) - _GAP
        picture = Image.new("RGB", whole, colour(BACK))
        pen = ImageDraw.Draw(picture)
        y = 0
        for line, ink, high in lines:
            pen.text((MARGIN, y + high // 2), line, fill=WORDS, font=ink, anchor="lm")
            y += high
        for i, index in enumerate(chosen):
            place = (i % across) * (wide + _GAP), top + (i // across) * (tall + _GAP)
            picture.paste(self.frame(index).resize((wide, tall), Image.Resampling.LANCZOS), place)
        return as_tensor(picture)

    def frame(self, index: int) -> Image.Image:
        """One frame with its names, its numbers and the colour bar."""
        picture = Image.new("RGB", self.size, colour(BACK))
        pen = ImageDraw.Draw(picture)
        error = f"error x{self._gain:g}"
        if self._mode == "side by side":
            panels = [self._plain(index, 0), self._plain(index, 1), self._error(index)]
            names = [WITHOUT, WITH, error]
        elif self._mode == "wipe":
            panels, names = [self._wiped(index)], []
            self._names_of_wipe(pen)
        else:
            panels, names = [self._error(index)], [error]
        for i, panel in enumerate(panels):
            picture.paste(panel, (i * (self._panel[0] + _GAP), self._line))
        for i, name in enumerate(names):
            place = i * (self._panel[0] + _GAP) + _GAP, self._line / 2
            pen.text(place, name, fill=WORDS, font=self._font, anchor="lm")
        below = self._line + self._panel[1]
        numbers = self._numbers(index)
        # below the error is its colour bar
        room = max(1, self._columns - 1) * (self._panel[0] + _GAP) - _GAP
        letters = _fitting(numbers, self._font, room - 2 * _GAP)
        pen.text(
            (_GAP, below + self._line / 2), ", ".join(numbers), fill=WORDS, font=letters,
            anchor="lm",
        )  # fmt: skip
        if self._mode != "wipe":
            left = (self._columns - 1) * (self._panel[0] + _GAP)
            self._legend(pen, left, below + (self._rows - 1) * self._line)
        return picture

    def _plain(self, index: int, video: int) -> Image.Image:
        frame = self._videos[video][index].float()
        shown = frame[..., :3] if frame.shape[-1] > 1 else frame.expand(*frame.shape[:2], 3)
        return self._enlarged(as_picture(shown))

    def _error(self, index: int) -> Image.Image:
        a, b = (video[index] for video in self._videos)
        shades = colourise(error_map(a, b, self._gain).numpy(), COLORMAP)
        return self._enlarged(as_picture(torch.from_numpy(shades)))

    def _wiped(self, index: int) -> Image.Image:
        left, right = self._plain(index, 0), self._plain(index, 1)
        line = round(self._position * self._panel[0])
        left.paste(right.crop((line, 0, *self._panel)), (line, 0))
        if 0 < line < self._panel[0]:
            ImageDraw.Draw(left).line((line, 0, line, self._panel[1]), fill=(255, 255, 255))
        return left

    def _names_of_wipe(self, pen: ImageDraw.ImageDraw) -> None:
        y = self._line / 2
        if self._position > 0:
            pen.text((_GAP, y), WITHOUT, fill=WORDS, font=self._font, anchor="lm")
        if self._position < 1:
            right = self._panel[0] - _GAP
            pen.text((right, y), WITH, fill=WORDS, font=self._font, anchor="rm")

    def _enlarged(self, picture: Image.Image) -> Image.Image:
        return picture.resize(self._panel, Image.Resampling.NEAREST)

    def _numbers(self, index: int) -> list[str]:
        found = self._found.frames[index]
        return [f"frame {index}", in_words(found.psnr), f"SSIM {found.ssim:.4f}"]

    def _legend(self, pen: ImageDraw.ImageDraw, left: int, top: int) -> None:
        """What the colours of the error mean, in the values of an image from 0 to 1."""
        ends = "0", f"{1 / self._gain:.3g}"
        low, high = (round(pen.textlength(end, font=self._font)) for end in ends)
        width = self._panel[0] // 2
        x = left + _GAP + low + 8
        wide = min(width, self._panel[0] - (low + high + 2 * _GAP + 16))
        box = x, top + self._line // 3, wide, max(4, self._line // 3)
        bar(pen, box, partial(colour_at, colormap=COLORMAP), ends, self._font)


def _fitting(words: Sequence[str], letters: Font, width: int) -> Font:
    """The font, or a smaller one in which the words have room beside each other."""
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    points = round(getattr(letters, "size", 11))
    while points > 8 and pen.textlength(", ".join(words), font=letters) > width:
        points -= 1
        letters = font(points)
    return letters
