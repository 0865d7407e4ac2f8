"""Pictures with words: their cells and colours are the trace's."""

import importlib
import json
from collections import Counter

import pytest
import torch
from motioncache_pack.motioncache_core import MotionCacheError, Trace
from motioncache_pack.motioncache_core.report.trace import ChunkRecord, EvaluationRecord
from motioncache_pack.tests.support.node_runs import STEPS


def colours(pack, timeline, rows, columns):
    """The kind of every cell, read off the picture where no number is drawn."""
    pictures, core = (
        importlib.import_module(f"motioncache_pack.{name}")
        for name in ("nodes.pictures.timeline", "motioncache_core.report.timeline")
    )
    grid = pictures.Grid(rows, columns)
    assert timeline.shape == (1, *grid.picture[::-1], 3)
    found = []
    for row in range(rows):
        for column in range(columns):
            # the corner of a cell: the number is in its middle
            at = grid.top + row * grid.height + 2, grid.left + column * grid.width + 2
            pixel = tuple(round(255 * v) for v in timeline[(0, *at)].tolist())
            known = {
                pictures.colour(core.shade(1.0)): "dense",
                pictures.colour(core.REUSED): "reuse",
                pictures.colour(core.BACK): "none",
            }
            found.append(known.get(pixel, "partial"))
    return Counter(found)


@pytest.mark.parametrize("policy", ["motion", "step"])
def test_the_timelines_counts_are_the_traces(pack, policy):
    model, handle = pack.patch(pack.wan(), policy=policy)
    pack.sample(model)
    _, timeline, data = pack.execute("MotionCacheReport", handle, {})
    found = json.loads(data)
    counted = colours(pack, timeline, 1, STEPS)
    assert counted == Counter(e["kind"] for e in found["evaluations"])
    totals = found["totals"]
    assert all(counted[kind] == totals[kind] for kind in ("dense", "partial", "reuse"))
    assert len(counted) == (3 if policy == "motion" else 2)


@pytest.mark.parametrize("steps", [7, 60])
def test_a_timeline_of_any_length_has_its_legend(pack, steps):
    """Few steps are declined: there is a picture all the same."""
    model, handle = pack.patch(pack.wan())
    pack.sample(model, steps=steps)
    _, timeline, _ = pack.execute("MotionCacheReport", handle, {})
    legend = timeline[0, -26:]
    assert legend.min() < 0.2 < 0.8 < legend.max()
    assert timeline.shape[2] >= 880


MAP = {"view": "active", "step": -1, "colormap": "gray", "opacity": 0.6}


@pytest.fixture(scope="module")
def sampled(pack):
    model, handle = pack.patch(pack.wan())
    pack.sample(model)
    return handle


@pytest.fixture
def previewed(pack, monkeypatch):
    """What the map's node shows on itself, and what it puts out."""
    module = importlib.import_module("motioncache_pack.nodes.motion_map")
    shown = []
    real = module.ui.PreviewImage

    def keep(image, **kwargs):
        shown.append(image)
        return real(image, **kwargs)

    monkeypatch.setattr(module.ui, "PreviewImage", keep)

    def show(handle, **inputs):
        (out,) = pack.execute("MotionCacheMotionMap", handle, {}, **{**MAP, **inputs})
        return shown.pop(), out

    return show


def white_share(sheet):
    """White of white and black; words, edges and the legend are neither, but for a few pixels."""
    white, black = (sheet == 1).all(dim=-1).sum(), (sheet == 0).all(dim=-1).sum()
    return float(white / (white + black))


def test_the_preview_is_the_output_on_one_sheet(sampled, previewed):
    for step, record in enumerate(sampled.latest.evaluations):
        sheet, out = previewed(sampled, step=step + 1)
        assert sheet.shape[0] == 1 and sheet.shape[2] == 640
        assert out.shape == (3, 64, 64, 3)
        assert white_share(sheet) == pytest.approx(record.active_share, abs=0.01)
        assert white_share(out) == pytest.approx(record.active_share, abs=1e-6)


def test_a_sheet_over_the_steps_has_the_first_and_the_last(sampled, previewed):
    evaluations = sampled.latest.evaluations
    sheet, out = previewed(sampled, layout="steps")
    assert sheet is out or bool((sheet == out).all())
    assert out.shape[0] == 1
    # 8 of 14, evenly
    steps = [0, 2, 4, 6, 7, 9, 11, 13]
    wanted = sum(evaluations[i].active_share for i in steps) / len(steps)
    assert white_share(sheet) == pytest.approx(wanted, abs=0.01)
    below, _ = previewed(sampled, layout="steps", images=torch.ones(9, 8, 8, 3), opacity=0.0)
    assert white_share(below) > 0.98


@pytest.mark.parametrize(
    ("layout", "view", "images"),
    [("frames", "motion", True), ("steps", "updates", True), ("frames", "staleness", False),
     ("steps", "staleness", False)],
)  # fmt: skip
def test_every_view_has_a_sheet(sampled, previewed, layout, view, images):
    pictures = torch.rand(9, 24, 40, 3) if images else None
    sheet, _ = previewed(sampled, view=view, layout=layout, colormap="magma", images=pictures)
    assert sheet.ndim == 4 and 0 <= sheet.min() < sheet.max() <= 1


def test_a_legend_is_drawn_under_every_picture(sampled, previewed):
    _, bare = previewed(sampled)
    sheet, legend = previewed(sampled, legend=True)
    assert legend.shape[0] == bare.shape[0] == 3
    assert legend.shape[1] > legend.shape[2] * 0.9
    assert sheet.shape[0] == 1
    for part, alone in zip(legend, bare, strict=True):
        assert white_share(part) == pytest.approx(white_share(alone), abs=0.01)


def test_long_and_large_clips_fit_a_sheet():
    """Pictures of a real model's size: neither lost nor on top of each other."""
    sheets = importlib.import_module("motioncache_pack.nodes.pictures.motion_map")
    trace = Trace({"motion_sensitivity": 0.4}, grid=(21, 30, 52), chunks=(21,))
    tokens = 21 * 30 * 52
    chunk = ChunkRecord("dense", "motion", tokens, tokens, 0.1)
    trace.evaluations = [EvaluationRecord(i, 1.0, "all", (chunk,)) for i in range(30)]
    one = sheets.frames_sheet(trace, "active", -1, "gray", None, 1.0)
    many = sheets.steps_sheet(trace, "active", "gray", None, 1.0)
    for sheet, pictures in ((one, 21), (many, 8 * 9)):
        assert sheet.shape[2] == 1120 and sheet.shape[1] < 1700
        assert runs_of_white(sheet[0]) == pictures


def runs_of_white(sheet):
    """White rectangles of a sheet, counted where a row of them begins."""
    white = (sheet == 1).all(dim=-1).int()
    rows = white.sum(dim=1) > 40
    tops = [y for y in range(1, len(rows)) if rows[y] and not rows[y - 1]]
    return sum(int((white[y + 2].diff(prepend=white.new_zeros(1)) == 1).sum()) for y in tops)


def test_a_wrong_layout_is_told_what_is_allowed(pack, sampled):
    with pytest.raises(MotionCacheError, match="layout is 'grid'; allowed are 'frames', 'steps'"):
        pack.execute("MotionCacheMotionMap", sampled, {}, **MAP, layout="grid")


def test_a_missing_map_is_a_notice_in_every_layout(sampled, previewed):
    for missing in ({"step": 15}, {"step": 1, "view": "motion", "legend": True}):
        sheet, out = previewed(sampled, **missing)
        assert sheet.shape == out.shape == (1, 256, 512, 3)
