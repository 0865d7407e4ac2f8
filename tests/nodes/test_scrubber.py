"""What the page scrubs through: the maps of the whole run, in files of bounded size."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from motioncache_pack.motioncache_core import Trace
from motioncache_pack.motioncache_core.report.motion_map import (
    VIEWS,
    mapped_steps,
    maps,
    scale,
)
from motioncache_pack.motioncache_core.report.trace import ChunkRecord, EvaluationRecord
from motioncache_pack.tests.support.chinese import put
from motioncache_pack.tests.support.node_runs import STEPS
from PIL import Image


@pytest.fixture(scope="module")
def scrubbed(pack):
    model, handle = pack.patch(pack.wan())
    pack.sample(model)
    return handle


def told(pack, handle, view="motion", images=None, **more):
    """What the node sends to the page; nothing where it has no map."""
    node = pack.nodes["MotionCacheMotionMap"]
    out = node.execute(handle, {}, view, -1, "gray", 0.5, images, **more)
    assert len(out.ui["images"]) == 1
    return out.ui.get("motioncache_map")


def opened(file):
    assert file["type"] == "temp" and file["subfolder"] == ""
    folder = importlib.import_module("folder_paths").get_temp_directory()
    return Image.open(Path(folder) / file["filename"])


def test_every_view_is_a_picture_of_every_map(pack, scrubbed):
    (data,) = told(pack, scrubbed)
    trace = scrubbed.latest
    assert data["grid"] == [4, 4] and data["frames"] == [0, 1, 2]
    assert list(data["views"]) == list(VIEWS)
    for view, found in data["views"].items():
        assert found["steps"] == mapped_steps(trace, view) and found["all"] == len(found["steps"])
        pixels = np.asarray(opened(found["file"]))
        assert pixels.dtype == np.uint8 and pixels.shape == (4 * len(found["steps"]), 4 * 3)
        for row, shown_map in enumerate(maps(trace, view, found["steps"])):
            wanted = np.round(255 * shown_map)
            shown = pixels[4 * row : 4 * row + 4].reshape(4, 3, 4).transpose(1, 0, 2)
            np.testing.assert_array_equal(shown, wanted)


def test_the_words_are_the_traces(pack, scrubbed):
    (data,) = told(pack, scrubbed)
    trace = scrubbed.latest
    records = trace.evaluations
    assert data["of"] == {"frames": 3, "steps": STEPS} and data["chunks"] == [0, 0, 0]
    assert [(e["kind"], e["active"]) for e in data["evaluations"]] == [
        (r.kind, round(r.active_share, 4)) for r in records
    ]
    legends = {view: found["legend"] for view, found in data["views"].items()}
    assert legends["motion"] == {"title": "motion weight", "low": "0.20", "high": "1.00"}
    assert legends["staleness"]["high"] == scale(trace, "staleness", range(STEPS)).high
    assert data["colors"] == [(0, 0, 0), (255, 255, 255)]
    # it goes through JSON to the page
    assert json.loads(json.dumps(data))["view"] == "motion"


@pytest.mark.parametrize(
    ("inputs", "wanted"),
    [
        ({"view": "active"}, {"view": "active", "smooth": False}),
        ({"layout": "steps"}, {"view": "sheet"}),
        ({"upscale": "smooth"}, {"smooth": True, "view": "motion"}),
    ],
    ids=str,
)
def test_it_begins_with_what_the_node_is_set_to(pack, scrubbed, inputs, wanted):
    (data,) = told(pack, scrubbed, **inputs)
    assert {key: data[key] for key in wanted} == wanted


@pytest.mark.parametrize("count", [3, 9])
def test_the_frames_below_are_those_of_the_overlay(pack, scrubbed, count):
    images = torch.linspace(0, 1, count)[:, None, None, None].expand(count, 40, 600, 3)
    (data,) = told(pack, scrubbed, images=images)
    below = data["below"]
    width, height = below["size"]
    assert (width, height) == (256, 17)
    sheet = np.asarray(opened(below["file"])).astype(int)
    for i, grey in enumerate([0, 128, 255]):
        row, column = divmod(i, below["columns"])
        part = sheet[row * height : (row + 1) * height, column * width : (column + 1) * width]
        assert abs(part[2:-2, 8:-8] - grey).max() < 8


def test_without_images_nothing_lies_below(pack, scrubbed):
    (data,) = told(pack, scrubbed)
    assert data["below"] is None


def test_a_run_without_weights_has_the_other_views(pack):
    model, handle = pack.patch(pack.wan(), policy="chunk")
    pack.sample(model)
    (data,) = told(pack, handle)
    assert list(data["views"]) == ["updates", "staleness", "active"]
    assert data["view"] == "motion" and list(data["missing"]) == ["motion"]
    assert "does not weigh tokens" in put(data["missing"]["motion"], {})


def test_a_run_without_any_map_sends_none(pack):
    model, handle = pack.patch(pack.wan(), reuse_threshold=0.0)
    pack.sample(model)
    assert told(pack, handle) is None


def long_run(frames, height, width, steps, rng):
    tokens = frames * height * width
    chunk = ChunkRecord("partial", "motion", tokens, tokens, 0.1)
    trace = Trace({"motion_sensitivity": 0.4}, grid=(frames, height, width), chunks=(frames,))
    for i in range(steps):
        record = EvaluationRecord(i, 1 - i / steps, "all", (chunk,))
        # noise does not compress: the worst that can come
        record.weight = rng.integers(102, 256, tokens, dtype=np.uint8)
        record.active = np.packbits(rng.integers(0, 2, tokens, dtype=np.uint8))
        trace.evaluations.append(record)
    return trace


@pytest.mark.parametrize("clip", [(21, 30, 52, 30), (7, 11, 301, 60), (61, 45, 80, 3)], ids=str)
def test_a_large_run_is_thinned_out_evenly_and_says_so(pack, clip):
    scrub = importlib.import_module("motioncache_pack.nodes.pictures.scrubber")
    frames, height, width, steps = clip
    trace = long_run(*clip, np.random.default_rng(0))
    sheet = {"filename": "sheet.png", "subfolder": "", "type": "temp"}
    data = scrub.scrub_data(trace, "motion", -1, "magma", None, 1.0, "nearest", sheet, False)
    pictures = {view: opened(found["file"]) for view, found in data["views"].items()}
    folder = Path(importlib.import_module("folder_paths").get_temp_directory())
    size = sum(
        (folder / found["file"]["filename"]).stat().st_size for found in data["views"].values()
    )
    assert scrub.MAPS / 4 < size <= scrub.MAPS
    for view, found in data["views"].items():
        assert found["all"] == steps
        assert found["steps"][-1] == steps - 1 and sorted(set(found["steps"])) == found["steps"]
        wanted = width * len(data["frames"]), height * len(found["steps"])
        assert pictures[view].size == wanted and max(wanted) <= scrub.SIDE
    assert data["of"] == {"frames": frames, "steps": steps}
    assert data["frames"][0] == 0 and data["frames"][-1] == frames - 1
    rows = min(len(found["steps"]) for found in data["views"].values())
    assert len(data["frames"]) < frames or rows < steps


def test_files_of_two_runs_do_not_meet(pack, scrubbed):
    (first,), (second,) = told(pack, scrubbed), told(pack, scrubbed)
    names = [
        found["file"]["filename"] for data in (first, second) for found in data["views"].values()
    ]
    assert len(set(names)) == len(names)
