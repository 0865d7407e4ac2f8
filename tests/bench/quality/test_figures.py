"""The measures and the statistics of the quality bench, against others and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from motioncache_pack.tests.bench.quality import metrics, stats
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


def videos(frames=5, height=17, width=23, noise=0.05):
    reference = torch.rand(frames, height, width, 3)
    return reference, (reference + noise * torch.randn_like(reference)).clamp(0, 1)


# measures


@pytest.mark.parametrize("noise", [1e-4, 0.02, 0.3])
def test_psnr_and_ssim_are_scikit_images(noise):
    a, b = videos(noise=noise)
    x, y = a.double().numpy(), b.double().numpy()
    assert metrics.psnr(a, b) == pytest.approx(peak_signal_noise_ratio(x, y, data_range=1.0))
    frames = [
        structural_similarity(x[i], y[i], data_range=1.0, channel_axis=-1) for i in range(len(x))
    ]
    assert metrics.ssim(a, b) == pytest.approx(np.mean(frames))


def test_equal_videos_are_at_the_top():
    a, _ = videos()
    found = metrics.compare(a, a.clone())
    assert found["psnr"] == found["temporal_psnr"] == metrics.TOP_DB and found["ssim"] == 1


def test_temporal_psnr_by_hand():
    a, b = videos(frames=4, height=3, width=5)
    errors = [
        float((b[i + 1, y, x, c] - b[i, y, x, c]) - (a[i + 1, y, x, c] - a[i, y, x, c])) ** 2
        for i in range(3)
        for y in range(3)
        for x in range(5)
        for c in range(3)
    ]
    assert metrics.temporal_psnr(a, b) == pytest.approx(-10 * math.log10(np.mean(errors)), rel=1e-5)
    # an offset that stays is no temporal error
    assert metrics.temporal_psnr(a, a + 0.1) > 90 > 25 > metrics.psnr(a, a + 0.1)


def moving_by_hand(video):
    frames, height, width, _ = video.shape
    out = torch.zeros(frames, height, width, dtype=torch.bool)
    for f in range(frames):
        for y in range(height):
            for x in range(width):
                for g in (f - 1, f + 1):
                    for v in range(y - metrics.GROWN, y + metrics.GROWN + 1):
                        for u in range(x - metrics.GROWN, x + metrics.GROWN + 1):
                            if 0 <= g < frames and 0 <= v < height and 0 <= u < width:
                                change = (video[f, v, u] - video[g, v, u]).abs().max()
                                out[f, y, x] |= bool(change > metrics.MOVING)
    return out


def test_the_moving_region_by_hand():
    video = torch.full((4, 11, 13, 3), 0.5)
    for frame in range(1, 4):
        video[frame, 3, 2 * frame + 1, 1] += 0.2
    # a change that is too small to count, and the corner
    video[2, 8, 8, 0] += 0.9 * metrics.MOVING
    video[3, 0, 12, 2] = 0.0
    region = metrics.moving_region(video)
    assert torch.equal(region, moving_by_hand(video))
    assert 0 < region.float().mean() < 0.7 and not region[0, 9, 9]


def test_the_regions_make_up_the_whole():
    reference = torch.full((5, 16, 16, 3), 0.4)
    reference[:, :, :5] += 0.3 * torch.rand(5, 16, 5, 3)
    candidate = reference + 0.01 * torch.randn_like(reference)
    candidate[:, :, :5] += 0.05
    found = metrics.compare(reference, candidate)
    share = found["moving_share"]
    parts = [10 ** (-found[name] / 10) for name in ("psnr_moving", "psnr_static")]
    assert share * parts[0] + (1 - share) * parts[1] == pytest.approx(10 ** (-found["psnr"] / 10))
    assert found["region_gap"] == pytest.approx(found["psnr_static"] - found["psnr_moving"])
    assert found["region_gap"] > 5


def test_a_region_that_is_not_there_has_no_figure():
    still = torch.full((3, 9, 9, 3), 0.5)
    found = metrics.compare(still, still + 0.1)
    assert found["psnr_moving"] is None and found["region_gap"] is None
    assert found["psnr_static"] == pytest.approx(20, abs=1e-4)


# statistics


def test_between_two_runs_of_a_sweep():
    sweep = [(0.6, 50.0), (0.2, 30.0), (0.4, 44.0)]
    assert stats.at_share(sweep, 0.3) == pytest.approx(37.0)
    assert stats.at_share(sweep, 0.5) == pytest.approx(47.0)
    assert stats.at_share(sweep, 0.4) == 44 and stats.at_share(sweep, 0.2) == 30
    assert stats.at_share(sweep, 0.19) is None and stats.at_share(sweep, 0.61) is None
    assert stats.at_share([], 0.3) is None


def test_a_dense_sweeps_ups_and_downs_are_averaged():
    """Seven runs within a fifth of 0.4, off a line by a decibel in turn."""
    shares = [0.2, *(0.34 + 0.02 * i for i in range(7)), 0.6]
    sweep = [(x, 100 * x + (-1) ** i) for i, x in enumerate(shares)]
    assert stats.at_share(sweep, 0.4) == pytest.approx(40, abs=0.3)
    assert stats.at_share([(x, 100 * x) for x in shares], 0.4) == pytest.approx(40)


def test_runs_of_one_share_count_once():
    sweep = [(0.2, 30.0), (0.2, 34.0), (0.4, 40.0)]
    assert stats.at_share(sweep, 0.3) == pytest.approx(36.0)
    assert stats.at_share(sweep, 0.2) == pytest.approx(32.0)


def test_a_line_is_found_again():
    rng = np.random.default_rng(0)
    shares = rng.uniform(0.2, 0.8, 9)
    sweep = [(s, 20 + 30 * s) for s in shares]
    for share in np.linspace(shares.min(), shares.max(), 7)[1:-1]:
        assert stats.at_share(sweep, share) == pytest.approx(20 + 30 * share)


@pytest.mark.parametrize(
    ("kind", "clips", "least"),
    [("normal", 6, 0.92), ("normal", 24, 0.93), ("exponential", 6, 0.85), ("exponential", 24, 0.9)],
)
def test_intervals_cover(kind, clips, least, monkeypatch):
    monkeypatch.setattr(stats, "RESAMPLES", 1000)
    rng = np.random.default_rng(clips)
    runs, hits = 600, 0
    for i in range(runs):
        found = stats.bootstrap(getattr(rng, kind)(size=clips), seed=i)
        hits += found.low <= (kind == "exponential") <= found.high
    # 95 % was promised; of few clips with a long tail nobody can tell
    assert least <= hits / runs <= 0.98


@pytest.mark.parametrize("clips", [1, stats.LEAST_CLIPS - 1])
def test_few_clips_have_a_mean_and_no_interval(clips):
    found = stats.bootstrap([5.0] * clips)
    assert found.mean == 5 and found.low is None and found.high is None and found.clips == clips
    assert stats.bootstrap([5.0] * stats.LEAST_CLIPS).low == 5
    assert stats.bootstrap([]) is None


def test_the_nearest_run():
    assert stats.distance_to_a_run([0.2, 0.45], 0.4) == pytest.approx(0.05)
    assert stats.distance_to_a_run([], 0.4) == 1


def test_pairs_are_narrower_than_clips():
    rng = np.random.default_rng(1)
    clips = rng.normal(40, 5, 24)
    ours = [*(clips + 1 + rng.normal(0, 0.2, 24)), None, 3.0]
    theirs = [*clips, 2.0, None]
    found = stats.paired(ours, theirs)
    assert found.clips == 24 and 0.8 < found.low < 1 < found.high < 1.2
    alone = stats.bootstrap(clips)
    assert alone.high - alone.low > 5 * (found.high - found.low)


def test_no_two_curves_of_a_picture_look_alike(bench):
    report = bench("quality.report")
    assert len({report.look(i) for i in range(20)}) == 20
    assert len({report.look(i)[0] for i in range(8)}) == 8
