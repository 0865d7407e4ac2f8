"""The measures of a comparison against scikit-image and arithmetic done by hand."""

import math

import numpy as np
import pytest
import torch
from motioncache_pack.motioncache_core import MotionCacheError
from motioncache_pack.motioncache_core.report.video_quality import (
    compare,
    error_map,
    headline,
    text,
)
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.utils._python_dispatch import TorchDispatchMode


def pair(frames=3, height=17, width=23, channels=3, noise=0.05, seed=0):
    rng = torch.Generator().manual_seed(seed)
    a = torch.rand(frames, height, width, channels, generator=rng)
    b = (a + noise * torch.randn(a.shape, generator=rng)).clamp(0, 1)
    return a, b


@pytest.mark.parametrize(
    ("height", "width", "channels", "noise"),
    [(7, 7, 3, 0.05), (7, 31, 1, 0.001), (17, 23, 3, 0.5), (64, 40, 4, 0.05)],
)
def test_psnr_and_ssim_are_those_of_scikit_image(height, width, channels, noise):
    a, b = pair(3, height, width, channels, noise)
    found = compare(a, b)
    x, y = a.double().numpy(), b.double().numpy()
    assert found.psnr == pytest.approx(peak_signal_noise_ratio(x, y, data_range=1.0), abs=1e-9)
    for i, frame in enumerate(found.frames):
        wanted = structural_similarity(x[i], y[i], data_range=1.0, channel_axis=-1)
        assert frame.ssim == pytest.approx(wanted, abs=1e-10)
        wanted = peak_signal_noise_ratio(x[i], y[i], data_range=1.0)
        assert frame.psnr == pytest.approx(wanted, abs=1e-9)
    assert found.ssim == pytest.approx(np.mean([f.ssim for f in found.frames]))


def test_an_error_that_stays_is_no_temporal_error():
    a, _ = pair(frames=4)
    found = compare(a, a + 0.1)
    assert found.psnr == pytest.approx(20.0, abs=1e-4)
    assert found.temporal_psnr > 120
    flickering = a.clone()
    flickering[1::2] += 0.1
    # the change differs by 0.1 between all neighbours
    assert compare(a, flickering).temporal_psnr == pytest.approx(20.0, abs=1e-4)


def test_the_pooled_error_counts_and_not_the_mean_of_decibels():
    a = torch.zeros(2, 8, 8, 3)
    b = a.clone()
    b[0] += 0.1
    b[1] += 0.3
    found = compare(a, b)
    assert found.psnr == pytest.approx(-10 * math.log10((0.01 + 0.09) / 2), abs=1e-5)
    assert found.worst == 1
    assert [f.largest for f in found.frames] == pytest.approx([0.1, 0.3])


def test_equal_videos_are_identical_in_words():
    a, b = pair()
    found = compare(a, a.clone())
    assert found.identical and math.isinf(found.psnr) and found.ssim == 1
    assert headline(found).startswith("identical")
    assert "inf" not in text(found, a)
    found = compare(a, torch.cat([a[:1], b[1:]]))
    words = text(found, a)
    assert not found.identical and "inf" not in words
    assert words.splitlines()[-3].split()[:2] == ["0", "identical"]


def test_the_text_has_a_line_for_every_frame():
    a, b = pair(frames=5)
    found = compare(a, b)
    rows = text(found, a).splitlines()
    assert "5 frames, 23x17" in rows[0]
    assert f"PSNR {found.psnr:.2f} dB" in rows[1] and f"SSIM {found.ssim:.4f}" in rows[1]
    for index, (row, frame) in enumerate(zip(rows[-5:], found.frames, strict=True)):
        number, psnr, _, ssim, *_ = row.split()
        assert (int(number), float(psnr)) == (index, round(frame.psnr, 2))
        assert float(ssim) == round(frame.ssim, 4)


def test_one_frame_has_no_temporal_measure():
    a, b = pair(frames=1)
    found = compare(a, b)
    assert found.temporal_psnr is None
    assert "one frame has none" in headline(found)
    assert "1 frame, 23x17" in text(found, a)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_dtypes_are_compared_as_they_are(dtype):
    a, b = (v.to(dtype) for v in pair())
    assert compare(a, b).psnr == pytest.approx(compare(a.double(), b.double()).psnr)
    assert a.dtype == dtype


def test_the_error_map_is_the_mean_error_times_the_gain():
    a = torch.zeros(2, 3, 3)
    b = torch.tensor([0.0, 0.03, 0.06]).expand(2, 3, 3)
    assert torch.allclose(error_map(a, b, 10.0), torch.full((2, 3), 0.3))
    assert bool((error_map(a, b, 100.0) == 1).all())


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ((3, 8, 8, 3), (4, 8, 8, 3), ["3 frames of 8x8", "4 frames of 8x8"]),
        ((3, 8, 10, 3), (3, 10, 8, 3), ["of 10x8", "of 8x10", "same size"]),
        ((3, 8, 8, 3), (3, 8, 8, 4), ["3 channels", "4 channels"]),
        ((8, 8, 3), (8, 8, 3), ["video without", "(8, 8, 3)", "IMAGE"]),
        ((3, 8, 8, 3), (3, 8, 8, 2), ["video with MotionCache", "1, 3, 4 channels"]),
        ((0, 8, 8, 3), (0, 8, 8, 3), ["video without", "(0, 8, 8, 3)"]),
        ((3, 6, 8, 3), (3, 6, 8, 3), ["8x6", "7x7", "larger"]),
    ],
)
def test_what_cannot_be_compared_is_told_why(a, b, said):
    with pytest.raises(MotionCacheError) as error:
        compare(torch.zeros(a), torch.zeros(b))
    assert all(words in str(error.value) for words in said), error.value


@pytest.mark.parametrize(
    ("name", "said", "value"),
    [("reference", "without", math.nan), ("candidate", "with", math.inf)],
)
def test_values_that_are_no_numbers_are_told_with_their_frame(name, said, value):
    videos = dict(zip(("reference", "candidate"), pair(), strict=True))
    videos[name] = videos[name].clone()
    videos[name][2, 3, 4, 1] = value
    with pytest.raises(MotionCacheError, match=f"frame 2 of the video {said} MotionCache"):
        compare(**videos)


class Largest(TorchDispatchMode):
    """The most bytes that one operation allocates."""

    nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in given:
            self.nbytes = max(self.nbytes, out.untyped_storage().nbytes())
        return out


def test_a_long_video_needs_no_more_than_a_few_frames():
    a, b = pair(frames=40, height=20, width=30)
    with Largest() as seen:
        compare(a, b)
    # fp64 of one frame
    assert 0 < seen.nbytes <= 2 * a[0].nbytes
