"""What `run.py` makes of its runs: measures, tables, sheets."""

import argparse

import numpy as np
import pytest
import torch
from motioncache_pack.tests.support.user_runs import (
    FACTS,
    HEIGHT,
    WIDTH,
    FakeServer,
    clip_of,
    figures_of,
    png,
    report,
    run,
    sweep,  # noqa: F401
    text_of,
)
from motioncache_pack.tests.support.user_workflows import infos, two_experts
from PIL import Image


def test_figures_by_hand(sweep):  # noqa: F811
    made = sweep()
    run(made, FakeServer())
    found = figures_of(made)
    again, quality = found["policies"]["none, again"], found["policies"]["quality"]
    assert again["identical"] == again["runs"] == 2 and again["psnr"] is None
    # an error of 1 everywhere: of the range of 255; 11 and 12 s uncached, after warm-up
    assert quality["psnr"]["mean"] == pytest.approx(20 * np.log10(255), abs=1e-3)
    assert quality["worst_clip"] == pytest.approx(20 * np.log10(255))
    assert quality["compute_share"]["mean"] == 0.5
    speedups = [11 / 5, 10 / 5]
    assert quality["speedup"]["mean"] == pytest.approx(sum(speedups) / 2)
    assert quality["memory_mib"]["mean"] == 3
    text = text_of(made, found)
    assert "| quality | 2.10 | 0.50 | 48.1 |" in text
    assert "identical in 2 of 2 clips" in text and "No intervals: 2 clips" in text


def test_a_model_that_is_not_deterministic_is_said_so(sweep):  # noqa: F811
    made = sweep(("fast",), 6)
    run(made, FakeServer(noise=3))
    found = figures_of(made)
    text, told = text_of(made, found), f"{20 * np.log10(255 / 3):.1f} dB"
    assert f"differ in 6 of 6 clips, by {told}" in text and "is not deterministic" in text
    assert "No intervals" not in text
    psnr = found["policies"]["fast"]["psnr"]
    assert psnr["low"] <= psnr["mean"] <= psnr["high"]


def test_equal_compute_and_equal_speed(sweep):  # noqa: F811
    made = sweep(("balanced",), 1, budgets=(0.5, 0.2))
    run(made, FakeServer())
    found = figures_of(made)
    # budgets of 1/2 and 1/5 have errors of 1 and 4, the preset of 2 and a share of 1/3
    db = [20 * np.log10(255 / e) for e in (1, 2, 4)]
    rows = found["at_compute"]["psnr"]["balanced"]
    at = dict(zip((0.7, 0.6, 0.5, 0.4, 0.3), rows, strict=True))
    assert at[0.7] is None and at[0.6] is None
    assert at[0.5]["mean"] == pytest.approx(db[0], abs=1e-3)
    assert at[0.4]["mean"] == pytest.approx(
        np.interp(0.4, [1 / 3, 1 / 2], [db[1], db[0]]), abs=1e-3
    )
    assert at[0.3]["mean"] == pytest.approx(
        np.interp(0.3, [1 / 5, 1 / 3], [db[2], db[1]]), abs=1e-3
    )
    # 11 s uncached, 5, 10/3 and 2 s cached
    row = found["at_speedup"]["psnr"]["balanced"]
    shares = [2 / 11, 10 / 33, 5 / 11]
    assert row[-1]["mean"] == pytest.approx(np.interp(1 / 3, shares, db[::-1]), abs=1e-3)
    assert row[0] is None
    text = text_of(made, found)
    assert "| tokens computed: | 0.50 | 0.40 | 0.30 |" in text
    assert "| speed-up: | 2.5x | 3x |" in text
    assert "The number after *at* is the compute_budget of balanced." in text


def test_ours_beside_published_rivals(sweep):  # noqa: F811
    made = sweep(("balanced", "teacache", "EasyCache"), 1, budgets=(0.5, 0.2), thresholds=(0.01,))
    run(made, FakeServer())
    found = figures_of(made)
    policies = found["policies"]
    assert list(policies) == [
        "none, again", "balanced", "balanced at 0.5", "balanced at 0.2", "teacache",
        "teacache at 0.01", "EasyCache",
    ]  # fmt: skip
    assert {r["value"] for r in made.sweep.store.records.values()} == {None, 0.5, 0.2, 0.01}
    # its own threshold, 0.1, has an error of 10 and a share of 1/11
    assert policies["teacache"]["compute_share"]["mean"] == pytest.approx(1 / 11, abs=1e-3)
    assert found["at_compute"]["psnr"].keys() == {"balanced", "teacache"}
    db = {error: 20 * np.log10(255 / error) for error in (1, 2, 10)}
    ours = np.interp(0.4, [1 / 3, 1 / 2], [db[2], db[1]])
    theirs = np.interp(0.4, [1 / 11, 1 / 2], [db[10], db[1]])
    over = found["at_compute"]["over"]["teacache"]
    # at 0.7, 0.6, 0.5 and 0.4 of the tokens
    assert over[:2] == [None, None] and over[2]["mean"] == pytest.approx(0, abs=1e-3)
    assert over[3]["mean"] == pytest.approx(ours - theirs, abs=1e-3)
    text = text_of(made, found)
    assert "is the compute_budget of balanced.\n- The number after *at* is the reuse_thr" in text
    assert "of teacache." in text and "| balanced over teacache |" in text


def test_shares_of_two_patchers_are_weighed_by_their_tokens(bench):
    summed = bench("own_model.runs").summed([report(0.5, 300), report(1.0, 100)])
    assert summed["compute_share"] == pytest.approx((3 * 0.5 + 1.0) / 4)
    assert summed["evaluations"] == {"dense": 2, "partial": 2, "reuse": 0}
    declined = report(1.0) | {"evaluations": [], "reason": "declined"}
    assert bench("own_model.runs").summed([declined])["compute_share"] == 1.0
    assert bench("own_model.runs").summed([declined, report(0.5)])["compute_share"] == 0.5


@pytest.mark.parametrize(
    ("policy", "partial", "reuse", "said"),
    [
        ("motion", 0, 3, True),
        ("motion", 1, 3, False),
        ("motion", 0, 0, False),
        ("random", 0, 3, True),
        ("quality", 0, 3, False),
        ("step", 0, 3, False),
        ("flowcache", 0, 3, False),
    ],
)
def test_runs_that_told_no_tokens_apart_are_said(sweep, policy, partial, reuse, said):  # noqa: F811
    made = sweep(("fast", policy), 1)
    run(made, FakeServer())
    (record,) = [r for r in made.sweep.store.records.values() if r["policy"] == policy]
    record["evaluations"] = {"dense": 5, "partial": partial, "reuse": reuse}
    assert (f"told apart: {policy} (1 runs)" in text_of(made, figures_of(made))) is said


def test_several_samplers_of_one_node_are_said(bench):
    graph = two_experts()
    graph["41"]["inputs"]["model"] = ["10", 0]
    del graph["11"], graph["2"], graph["30"]
    args = argparse.Namespace(images=None, policies=["fast"], sweep=False, prompts=None, seeds=1,
                              first_seed=0)  # fmt: skip
    model = bench("own_model.run")
    plan = model.planned(args, graph, infos())
    assert plan.found.samplers == {"10": ("50", "51")}
    assert "feeds 2 samplers" in model.markdown("T", FACTS, plan, model.figures(plan, {}))
    told = model.described(plan)
    assert "MotionCachePatcher (node 10) feeds SamplerCustomAdvanced (node 50)" in told
    assert "1 clips, 3 runs" in told


def test_frames_become_a_video(bench):
    video, frames = bench("own_model.runs").video, clip_of(3)
    found = video([png(frame) for frame in frames])
    assert torch.equal(found, torch.from_numpy(frames).float() / 255)
    with pytest.raises(ValueError, match="no frames"):
        video([])
    with pytest.raises(ValueError, match="differ in size: 28x20, 28x21"):
        video([png(clip_of(0)[0]), png(np.zeros((21, 28, 3), np.uint8))])


# sheets


@pytest.mark.parametrize(
    ("count", "wanted"), [(1, [0]), (5, [0, 1, 2, 3, 4]), (81, [0, 20, 40, 60, 80])]
)
def test_the_frames_of_a_sheet(bench, count, wanted):
    assert bench("own_model.runs").shown(count) == wanted


def test_a_sheet_shows_every_run_and_where_it_errs(sweep, bench):  # noqa: F811
    made = sweep(("quality", "fast", "EasyCache"), 1)
    run(made, FakeServer(fails=["EasyCache"]))
    clip = made.plan.clips[0]
    made.model.write_sheet(made.plan, made.sweep, clip)
    with Image.open(made.model.sheet_of(made.plan, made.sweep, clip)) as picture:
        sheet = np.asarray(picture).astype(int)
    drawing = bench("own_model.sheet")
    width, height = drawing.CELL, round(drawing.CELL * HEIGHT / WIDTH)
    assert sheet.shape[:2] == (
        drawing.TOP + 5 * (height + drawing.GAP), drawing.LABELS + 6 * (width + drawing.GAP)
    )  # fmt: skip

    def cell(row, column):
        top = drawing.TOP + row * (height + drawing.GAP)
        left = drawing.LABELS + column * (width + drawing.GAP)
        return sheet[top : top + height, left : left + width]

    none, again, quality, fast, rival = range(5)
    for column in range(5):
        assert np.array_equal(cell(again, column), cell(none, column))
        assert np.array_equal(cell(quality, column), cell(none, column) + 1)
    assert cell(again, 5).max() < cell(quality, 5).mean() < cell(fast, 5).mean()
    # nothing but the background, and words to the left of it
    assert (cell(rival, 0) == drawing.BACK).all() and (cell(rival, 5) == drawing.BACK).all()


def test_a_strip_has_one_frame_without_and_with_every_policy(sweep, bench):  # noqa: F811
    made = sweep(("quality", "fast", "EasyCache"), 1)
    run(made, FakeServer(fails=["EasyCache"]))
    clip = made.plan.clips[0]
    made.model.write_sheet(made.plan, made.sweep, clip)
    sheet = made.model.sheet_of(made.plan, made.sweep, clip)
    with Image.open(sheet.with_name(sheet.name.replace("sheet", "strip"))) as picture:
        strip = np.asarray(picture).astype(int)
    drawing = bench("own_model.strip")
    width, height = drawing.CELL, round(drawing.CELL * HEIGHT / WIDTH)
    # without, again without, quality, fast; the one that failed has no frame
    assert strip.shape[:2] == (
        drawing.TOP + height + drawing.BOTTOM, 4 * (width + drawing.GAP) - drawing.GAP
    )  # fmt: skip
    cells = [strip[drawing.TOP : drawing.TOP + height, i * (width + drawing.GAP) :][:, :width]
             for i in range(4)]  # fmt: skip
    assert np.array_equal(cells[1], cells[0]) and np.array_equal(cells[2], cells[0] + 1)
    assert (strip[drawing.TOP + height :] != drawing.BACK).any()
