"""How close a video is to another one: per frame, over time, and where.

Videos are `(F, H, W, C)` in 0..1, any floating dtype and device. They are gone through frame by
frame in fp64 on the CPU, so that no more than a few frames are held beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.errors import ImageError
from ..common.phrases import phrase

# SSIM's window and constants (Wang et al. 2004), a flat window as scikit-image has by default
WINDOW = 7
_C1, _C2 = 0.01**2, 0.03**2
_CHANNELS = (1, 3, 4)
_NAMES = "the video without MotionCache", "the video with MotionCache"
# from so many dB and so much SSIM on, in words; a rule of thumb, ours
_WORDS = (
    (40.0, 0.98, phrase("no visible difference")),
    (32.0, 0.94, phrase("hardly visible differences")),
    (26.0, 0.85, phrase("small visible differences")),
    (20.0, 0.6, phrase("clearly visible differences")),
)
# of the error picture, when it is chosen for the user
_GAINS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


@dataclass(frozen=True, slots=True)
class FrameQuality:
    """One frame against its reference.

    Attributes:
        squared_error: mean over the frame's values.
        ssim: structural similarity, mean over the channels.
        change_error: mean squared error of the change since the frame before; None for the first.
        largest: largest error of a single value.
    """

    squared_error: float
    ssim: float
    change_error: float | None
    largest: float

    @property
    def psnr(self) -> float:
        """In dB, infinite for equal frames."""
        return decibels(self.squared_error)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A video against its reference.

    PSNR is of the squared error over all frames, not the mean of the frames' decibels; SSIM is the
    mean of the frames.
    """

    frames: tuple[FrameQuality, ...]

    @property
    def identical(self) -> bool:
        return all(f.squared_error == 0 for f in self.frames)

    @property
    def psnr(self) -> float:
        """In dB, infinite for equal videos."""
        return decibels(_mean([f.squared_error for f in self.frames]))

    @property
    def ssim(self) -> float:
        return _mean([f.ssim for f in self.frames])

    @property
    def temporal_psnr(self) -> float | None:
        """PSNR in dB of the differences between neighbouring frames: flicker and wrong motion, and
        no error that stays as it is. None for a single frame."""
        changes = [f.change_error for f in self.frames if f.change_error is not None]
        return decibels(_mean(changes)) if changes else None

    @property
    def worst(self) -> int:
        """The frame with the largest squared error, the first of equals."""
        errors = [f.squared_error for f in self.frames]
        return errors.index(max(errors))


def decibels(squared_error: float) -> float:
    """PSNR of a range of 1; infinite where there is no error."""
    return -10 * math.log10(squared_error) if squared_error > 0 else math.inf


def compare(reference: Tensor, candidate: Tensor) -> Comparison:
    """All measures of two videos of one shape.

    Raises:
        ImageError: they cannot be compared; says why and what to do.
    """
    check(reference, candidate)
    return Comparison(tuple(_frames(reference, candidate)))


def _frames(reference: Tensor, candidate: Tensor) -> Iterator[FrameQuality]:
    before = None
    for index in range(reference.shape[0]):
        a, b = (_finite(v, index, n) for v, n in zip((reference, candidate), _NAMES, strict=True))
        error = a - b
        yield FrameQuality(
            float(error.square().mean()),
            frame_ssim(a, b),
            None if before is None else float((error - before).square().mean()),
            float(error.abs().max()),
        )
        before = error


def _finite(video: Tensor, index: int, name: str) -> Tensor:
    frame = video[index].to("cpu", torch.float64)
    if not bool(frame.isfinite().all()):
        raise ImageError(
            f"frame {index} of {name} has values that are not numbers (NaN or infinite), so it "
            "cannot be compared. Look for the node that makes them: a VAE in fp16 is a usual one"
        )
    return frame


def check(reference: Tensor, candidate: Tensor) -> None:
    """Whether two videos can be compared.

    Raises:
        ImageError: they cannot; says why and what to do.
    """
    for name, video in zip(_NAMES, (reference, candidate), strict=True):
        if video.ndim != 4 or video.shape[0] == 0 or video.shape[-1] not in _CHANNELS:
            raise ImageError(
                f"{name} has shape {tuple(video.shape)}; give frames (frames, height, width, "
                f"channels) with {', '.join(map(str, _CHANNELS))} channels, an IMAGE output"
            )
    if reference.shape != candidate.shape:
        raise ImageError(
            f"{_NAMES[0]} has {_form(reference)}, the one with it {_form(candidate)}; both must be "
            "alike. "
            "Make them with the same size, length, seed and decoding, with and without MotionCache"
        )
    if min(reference.shape[1:3]) < WINDOW:
        raise ImageError(
            f"frames of {_size(reference)} are too small to compare: SSIM looks at {WINDOW}x"
            f"{WINDOW} pixels. Give larger frames"
        )


def _form(video: Tensor) -> str:
    frames = video.shape[0]
    return (
        f"{frames} frame{'s' * (frames != 1)} of {_size(video)} with {video.shape[-1]} "
        f"channel{'s' * (video.shape[-1] != 1)}"
    )


def _size(video: Tensor) -> str:
    return f"{video.shape[2]}x{video.shape[1]}"


def frame_ssim(reference: Tensor, candidate: Tensor) -> float:
    """SSIM (Wang et al. 2004) of two frames `(H, W, C)` fp64, mean over windows and channels.

    Flat 7x7 windows that lie inside the frame, unbiased variances, a range of 1.
    """
    channels = reference.shape[-1]
    return _mean([_plane_ssim(reference[..., c], candidate[..., c]) for c in range(channels)])


def _plane_ssim(a: Tensor, b: Tensor) -> float:
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    mean_a, mean_b = _box(a), _box(b)
    product, square_a, square_b = mean_a * mean_b, mean_a.square(), mean_b.square()
    covariance = unbiased * (_box(a * b) - product)
    variances = unbiased * (_box(a * a) - square_a + _box(b * b) - square_b)
    ssim = (2 * product + _C1) * (2 * covariance + _C2)
    ssim /= (square_a + square_b + _C1) * (variances + _C2)
    return float(ssim.mean())


def _box(x: Tensor) -> Tensor:
    """Mean of every window that lies inside."""
    for dim in (0, 1):
        size = x.shape[dim] - WINDOW + 1
        total = x.narrow(dim, 0, size).clone()
        for start in range(1, WINDOW):
            total += x.narrow(dim, start, size)
        x = total
    return x.div_(WINDOW**2)


def error_map(reference: Tensor, candidate: Tensor, gain: float) -> Tensor:
    """Absolute error of two frames `(H, W, C)`, mean over the channels, `(H, W)` fp32 in 0..1.

    Args:
        gain: an error of `1 / gain` and more is shown as 1.
    """
    a, b = (frame.to("cpu", torch.float32) for frame in (reference, candidate))
    return ((a - b).abs().mean(dim=-1) * gain).clamp(0, 1)


def fitting_gain(reference: Tensor, candidate: Tensor) -> float:
    """The largest of some round gains at which no more than a hundredth of the errors of the worst
    frame is beyond the colours."""
    worst = max(
        (error_map(a, b, 1.0) for a, b in zip(reference, candidate, strict=True)),
        key=lambda error: float(error.square().mean()),
    )
    high = float(torch.quantile(worst.flatten()[:: 1 + worst.numel() // 1_000_000], 0.99))
    return max((gain for gain in _GAINS if gain * high <= 1), default=_GAINS[0])


def plain_words(found: Comparison) -> str:
    """What a person is likely to see."""
    if found.identical:
        return phrase("identical")
    near = (words for db, ssim, words in _WORDS if found.psnr >= db and found.ssim >= ssim)
    return next(near, phrase("another picture"))


def text(found: Comparison, reference: Tensor) -> str:
    """The comparison for people, frame by frame."""
    rows = [
        f"MotionCache Compare: {reference.shape[0]} frame{'s' * (reference.shape[0] != 1)}, "
        f"{_size(reference)}",
        headline(found),
    ]
    if not found.identical:
        worst = found.frames[found.worst]
        rows += [
            f"Worst frame: {found.worst} ({worst.psnr:.2f} dB)",
            f"Largest error of a value: {max(f.largest for f in found.frames):.4f} of 1",
        ]
    rows.append(f"{'frame':>5}  {'PSNR':>12}  {'SSIM':>7}  {'temporal':>12}")
    for index, frame in enumerate(found.frames):
        change = "-" if frame.change_error is None else in_words(decibels(frame.change_error))
        rows.append(f"{index:>5}  {in_words(frame.psnr):>12}  {frame.ssim:>7.4f}  {change:>12}")
    return "\n".join(rows)


def headline(found: Comparison) -> str:
    """The measures in one line."""
    if found.identical:
        return phrase("identical: no value of any frame differs")
    temporal = found.temporal_psnr
    change = phrase("one frame has none") if temporal is None else in_words(temporal)
    return phrase(
        "PSNR {psnr}, SSIM {ssim:.4f}, temporal PSNR {change}",
        psnr=in_words(found.psnr),
        ssim=found.ssim,
        change=change,
    )


def in_words(db: float) -> str:
    """Decibels in words; an infinite number says that there is no error."""
    return f"{db:.2f} dB" if math.isfinite(db) else phrase("identical")


def _mean(numbers: list[float]) -> float:
    return math.fsum(numbers) / len(numbers)
