"""The compare node: its pictures show what its numbers say."""

import importlib

import pytest
import torch
from motioncache_pack.motioncache_core import MotionCacheError
from motioncache_pack.motioncache_core.report.run_summary import RunSummary
from motioncache_pack.motioncache_core.report.video_quality import compare, fitting_gain


@pytest.fixture
def drawing(pack):
    return importlib.import_module("motioncache_pack.nodes.pictures.comparison")


def videos(frames=4, height=150, width=230, channels=3):
    """Flat frames that differ in a rectangle of the lower right corner."""
    a = torch.full((frames, height, width, channels), 0.25)
    b = a.clone()
    b[:, height // 2 :, width // 2 :] += 0.1
    return a, b


def run(pack, a, b, mode="side by side", gain=10.0, **more):
    return pack.execute("MotionCacheCompare", a, b, mode, gain, **more)


def at(picture, x, y):
    return [round(float(v), 2) for v in picture[y, x]]


@pytest.mark.parametrize(
    ("mode", "height", "width"),
    [
        ("side by side", 31, 45),
        ("wipe", 7, 7),
        ("difference", 300, 225),
        ("side by side", 300, 225),
    ],
)
def test_every_mode_has_a_picture_of_even_size_for_every_frame(pack, mode, height, width):
    a, b = videos(3, height, width)
    pictures, words = run(pack, a, b, mode)
    assert pictures.shape[0] == 3 and pictures.shape[3] == 3
    assert pictures.shape[1] % 2 == pictures.shape[2] % 2 == 0
    assert 0 <= pictures.min() < pictures.max() <= 1
    assert f"{width}x{height}" in words


def test_both_and_their_error_are_side_by_side(pack, drawing):
    a, b = videos()
    pictures, _ = run(pack, a, b)
    top = pictures.shape[1] - 150 - round(1.7 * 19)
    for frame in pictures:
        corner = (200, top + 120)
        assert at(frame, *corner) == [0.25] * 3
        assert at(frame, corner[0] + 238, corner[1]) == [0.35] * 3
        # an error of 0.1 times 10 is the brightest colour, no error the darkest
        assert at(frame, corner[0] + 2 * 238, corner[1]) == [0.99, 0.99, 0.75]
        assert at(frame, 50 + 2 * 238, top + 40) == [0.0, 0.0, 0.02]


@pytest.mark.parametrize(("position", "split"), [(0.0, 0), (0.7, 161), (1.0, 230)])
def test_a_wipe_is_the_reference_left_of_its_line(pack, position, split):
    a, b = videos()
    b[:] = 0.75
    pictures, _ = run(pack, a, b, "wipe", position=position)
    row = pictures[0, pictures.shape[1] // 2, :230, 0]
    assert int((row < 0.5).sum()) == split
    assert bool((row[:split] < 0.5).all())


def test_the_gain_changes_the_picture_and_no_number(pack):
    a, b = videos()
    (low, words), (high, same) = (run(pack, a, b, "difference", gain) for gain in (1.0, 8.0))
    assert words == same
    assert high.mean() > low.mean()


def test_the_text_is_the_comparison(pack):
    a, b = videos()
    _, words = run(pack, a, b)
    assert f"PSNR {compare(a, b).psnr:.2f} dB" in words
    _, words = run(pack, a, a)
    assert "identical" in words


@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels_are_drawn(pack, channels):
    a, b = videos(channels=channels)
    pictures, _ = run(pack, a, b)
    assert pictures.shape[3] == 3
    assert at(pictures[0], 200, 140) == [0.25] * 3


@pytest.mark.parametrize("mode", ["side by side", "wipe", "difference"])
def test_the_preview_is_one_sheet_with_the_worst_frame(drawing, monkeypatch, mode):
    a, b = videos(12)
    b[7] += 0.05
    found = compare(a, b)
    drawn = []
    frame = drawing.ComparePictures.frame

    def watched(self, index):
        drawn.append(index)
        return frame(self, index)

    monkeypatch.setattr(drawing.ComparePictures, "frame", watched)
    sheet = drawing.ComparePictures(a, b, found, mode, 10.0, 0.5).preview()
    assert drawn == ([7, 11] if mode == "side by side" else [0, 7, 11])
    assert sheet.shape[0] == 1 and sheet.shape[2] <= 1120


def test_words_fit_the_panel_they_are_in(drawing):
    a, b = videos(2, 60, 64)
    found = compare(a, b)
    pictures = drawing.ComparePictures(a, b, found, "side by side", 255.0, 0.5)
    below = drawing.as_tensor(pictures.frame(1))[0][-round(1.7 * 21) :]
    gap = below[:, 2 * 256 + 8 : 2 * 256 + 16]
    # nothing is written between the numbers and the colour bar
    assert bool((gap == gap[0, 0]).all())


def test_a_wrong_mode_and_unlike_videos_are_told_what_to_do(pack):
    a, b = videos()
    with pytest.raises(MotionCacheError, match="mode is 'blink'; allowed are 'side by side'"):
        run(pack, a, b, "blink")
    with pytest.raises(MotionCacheError, match=r"without MotionCache has 4 .* with it 3 frames"):
        run(pack, a, b[:3])


def clip_and(error):
    """A video of noise, and the same with an error of this size everywhere."""
    video = 0.2 + 0.6 * torch.rand(3, 24, 40, 3, generator=torch.Generator().manual_seed(5))
    return video, video + error


@pytest.mark.parametrize(
    ("error", "words"),
    [(0, "identical"), (0.005, "no visible difference"), (0.018, "hardly visible differences"),
     (0.04, "small visible differences"), (0.08, "clearly visible differences"),
     (0.2, "another picture")],
)  # fmt: skip
def test_it_says_in_words_what_one_sees(pack, error, words):
    assert run(pack, *clip_and(error))[1].splitlines()[0] == words


@pytest.mark.parametrize(
    ("error", "gain"), [(0.0, 50), (0.003, 50), (0.019, 50), (0.021, 20), (0.3, 2), (0.8, 1)]
)
def test_a_gain_of_0_takes_one_that_fits(error, gain):
    assert fitting_gain(*clip_and(error)) == gain


def test_both_times_are_said_where_both_runs_were_timed(pack):
    """A run with the cache beside one whose preset is off, with what these traces say."""
    a, b = clip_and(0.005)
    handles = {}
    for name, preset in (("reference_trace", "off"), ("trace", "balanced")):
        model, handles[name] = pack.execute("MotionCachePatcher", pack.wan(), preset)
        pack.sample(model, steps=12)
    handles["reference_trace"].latest.seconds, handles["trace"].latest.seconds = 9.04, 3.96
    said = {
        (): "no visible difference",
        ("trace", "reference_trace"): (
            "9.0 s without MotionCache, 4.0 s with it: 2.3x faster, no visible difference"
        ),
        ("reference_trace",): "9.0 s without MotionCache, no visible difference",
    }
    for names, words in said.items():
        more = {name: handles[name] for name in names}
        assert run(pack, a, b, gain=0.0, **more)[1].splitlines()[0] == words
    alone = run(pack, a, b, trace=handles["trace"])[1].splitlines()[0]
    guess = RunSummary(handles["trace"].latest).speed_up()
    assert alone == (
        f"4.0 s with MotionCache, about {guess:.1f}x faster than without (estimate), "
        "no visible difference"
    )
    handles["trace"].latest.seconds = 18.08
    assert "18.1 s with it: 2.0x slower" in run(pack, a, b, **handles)[1]
    for first in (True, False):
        handles["reference_trace"].latest.first, handles["trace"].latest.first = first, False
        lines = run(pack, a, b, **handles)[1].splitlines()
        assert lines[1].startswith("the first run since the start takes longer") is first
    for seconds in (8.8, 9.0, 9.2):
        handles["trace"].latest.seconds = seconds
        assert f"{seconds} s with it: no faster, " in run(pack, a, b, **handles)[1]
