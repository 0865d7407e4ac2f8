"""Pictures with words: their cells and colours are the trace's."""

import importlib
import json
from collections import Counter

import pytest
from motioncache_pack.tests.support.node_runs import STEPS


def colours(pack, timeline, rows, columns):
    """The kind of every cell, read off the picture where no number is drawn."""
    pictures, core = (
        importlib.import_module(f"motioncache_pack.{name}")
        for name in ("nodes.pictures", "motioncache_core.timeline")
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
