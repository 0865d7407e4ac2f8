"""The measures and the statistics of the quality bench, against others and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from motioncache_pack.tests.bench.quality import metrics, stats

# measures; those of whole videos are the core's, and tested there


def test_what_equal_videos_and_still_ones_have():
    still = torch.full((3, 9, 9, 3), 0.5)
    found = metrics.compare(still, still)
    assert found["identical"] and found["psnr"] == found["psnr_static"] == metrics.TOP_DB
    assert found["psnr_moving"] is None and found["region_gap"] is None
    found = metrics.compare(still, still, None)
    assert found["identical"] and found["psnr"] is found["psnr_static"] is None
    found = metrics.compare(still, still + 0.1)
    assert not found["identical"] and found["temporal_psnr"] == metrics.TOP_DB
    assert found["psnr_static"] == found["psnr"] == pytest.approx(20, abs=1e-4)


def moving_by_hand(video):
    frames, height, width, _ = video.shape
    out = torch.zeros(frames, height, width, dtype=torch.bool)
    for f, y, x in np.ndindex(frames, height, width):
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
    assert metrics.compare(video, video)["moving_share"] == pytest.approx(region.double().mean())


def test_the_regions_make_up_the_whole():
    reference = torch.full((5, 16, 16, 3), 0.4)
    reference[:, :, :5] += 0.3 * torch.rand(5, 16, 5, 3)
    candidate = reference + 0.01 * torch.randn_like(reference)
    candidate[:, :, :5] += 0.05
    found = metrics.compare(reference, candidate)
    share = found["moving_share"]
    parts = [10 ** (-found[name] / 10) for name in ("psnr_moving", "psnr_static")]
    assert share * parts[0] + (1 - share) * parts[1] == pytest.approx(10 ** (-found["psnr"] / 10))
    assert metrics.psnr(reference, candidate) == pytest.approx(found["psnr"])
    assert found["region_gap"] == pytest.approx(found["psnr_static"] - found["psnr_moving"])
    assert found["region_gap"] > 5 and found["worst_psnr"] < found["psnr"]


# statistics


def test_between_two_runs_of_a_sweep():
    sweep = [(0.6, 50.0), (0.2, 30.0), (0.2, 34.0), (0.4, 44.0)]
    # runs of one share count once, with their mean
    for share, wanted in ((0.2, 32), (0.3, 38), (0.4, 44), (0.5, 47), (0.19, None), (0.61, None)):
        assert stats.at_share(sweep, share) == (wanted and pytest.approx(wanted)), share
    assert stats.at_share([], 0.3) is None


def test_a_dense_sweeps_ups_and_downs_are_averaged():
    """Seven runs within a fifth of 0.4, off a line by a decibel in turn."""
    shares = [0.2, *(0.34 + 0.02 * i for i in range(7)), 0.6]
    sweep = [(x, 100 * x + (-1) ** i) for i, x in enumerate(shares)]
    assert stats.at_share(sweep, 0.4) == pytest.approx(40, abs=0.3)
    assert stats.at_share([(x, 100 * x) for x in shares], 0.39) == pytest.approx(39)


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
        hits += found["low"] <= (kind == "exponential") <= found["high"]
    # 95 % was promised; of few clips with a long tail nobody can tell
    assert least <= hits / runs <= 0.98


def test_few_clips_have_a_mean_and_no_interval():
    least = stats.LEAST_CLIPS
    few = {"mean": 5.0, "low": None, "high": None, "clips": least - 1}
    assert stats.bootstrap([*[5.0] * (least - 1), None]) == few
    assert stats.bootstrap([5.0] * least) == {"mean": 5.0, "low": 5.0, "high": 5.0, "clips": least}
    assert stats.bootstrap([None]) is None


def test_pairs_are_narrower_than_clips():
    rng = np.random.default_rng(1)
    clips = rng.normal(40, 5, 24)
    ours = [*(clips + 1 + rng.normal(0, 0.2, 24)), None, 3.0]
    found = stats.paired(ours, [*clips, 2.0, None])
    assert found["clips"] == 24 and 0.8 < found["low"] < 1 < found["high"] < 1.2
    alone = stats.bootstrap(clips)
    assert alone["high"] - alone["low"] > 5 * (found["high"] - found["low"])


def test_no_two_curves_of_a_picture_look_alike(bench):
    report = bench("quality.report")
    assert len({report.look(i) for i in range(20)}) == 20
    assert len({report.look(i)[0] for i in range(8)}) == 8
