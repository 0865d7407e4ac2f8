"""Pictures of a trace: values by hand, shapes, and errors that say what to do."""

import numpy as np
import pytest
import torch
from motioncache_pack.motioncache_core.common.errors import MotionCacheError
from motioncache_pack.motioncache_core.report.colours import COLORMAPS, colourise
from motioncache_pack.motioncache_core.report.motion_map import (
    VIEWS,
    Scale,
    mapped_steps,
    maps,
    render,
    render_steps,
    scale,
    values,
    which_step,
)
from motioncache_pack.motioncache_core.report.trace import ChunkRecord, EvaluationRecord, Trace
from motioncache_pack.motioncache_core.settings import MotionCacheSettings

GRID = (2, 2, 3)
ACTIVE = [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]


def record(index, kind, active=None, weight=None, scope="all branches"):
    count = {"dense": 12, "reuse": 0}.get(kind, sum(active or []))
    found = EvaluationRecord(
        index, 1 - index / 10, scope, (ChunkRecord(kind, "motion", count, 12, 0.0),)
    )
    if active is not None:
        found.active = np.packbits(np.array(active, dtype=bool))
    if weight is not None:
        found.weight = np.array(weight, dtype=np.uint8)
    return found


@pytest.fixture
def trace():
    weight = [153] * 6 + [255] * 3 + [204] * 3
    return Trace(
        MotionCacheSettings(motion_sensitivity=0.4).as_dict(),
        grid=GRID,
        evaluations=[
            record(0, "dense"),
            record(1, "reuse"),
            record(2, "partial", ACTIVE, weight),
            record(3, "reuse"),
        ],
    )


def test_the_change_of_an_answer_is_shown_as_it_is(trace):
    trace.settings |= {"policy": "answer", "motion_source": "residual"}
    shown = values(trace, "motion").reshape(-1).tolist()
    assert shown == pytest.approx([153 / 255] * 6 + [1] * 3 + [204 / 255] * 3)
    trace.evaluations[2].weight = None
    with pytest.raises(MotionCacheError, match="fewer than two evaluations were computed"):
        values(trace, "motion")


def test_active_updates_and_staleness_by_hand(trace):
    assert values(trace, "active", 2).reshape(-1).tolist() == ACTIVE
    assert values(trace, "active", -1).sum() == 0
    assert values(trace, "active", 0).sum() == 12
    updates = [(1 + a) / 4 for a in ACTIVE]
    assert values(trace, "updates").reshape(-1).tolist() == pytest.approx(updates)
    # computed 1 evaluation ago, or 3: the stalest is 1
    staleness = [1 / 3 if a else 1.0 for a in ACTIVE]
    assert values(trace, "staleness").reshape(-1).tolist() == pytest.approx(staleness)
    assert values(trace, "staleness", 0).sum() == 0


def test_only_the_first_scope_is_shown(trace):
    other = record(1, "dense", scope="branch 1")
    trace.evaluations.insert(1, other)
    for i, e in enumerate(trace.evaluations):
        e.index = i
    assert values(trace, "active", 1).sum() == 0


def test_smooth_pictures_flow_between_the_tokens_values(trace):
    shown = values(trace, "motion")
    smooth = render(trace, "motion", colormap="gray", pixels=3, upscale="smooth")
    assert smooth.shape == (2, 6, 9, 3)
    # the centre of a token is its own value
    np.testing.assert_allclose(smooth[:, 1::3, 1::3, 0], shown, atol=1e-6)
    # halfway between the rows of frame 1, whose values are 1 and 0.5
    between = smooth[1, 2:4, 4, 0].tolist()
    assert between == pytest.approx([1 - 0.5 / 3, 0.5 + 0.5 / 3])
    over = render(trace, "motion", images=torch.zeros(2, 6, 9, 3), opacity=1.0, upscale="smooth")
    assert torch.equal(over, render(trace, "motion", pixels=3, upscale="smooth"))


def test_an_overlay_mixes_by_opacity_and_spreads_the_frames(trace):
    images = torch.stack([torch.full((4, 6, 3), 0.1 * i) for i in range(5)])
    seen = render(trace, "active", 0, "gray", images, opacity=0.25)
    assert seen.shape == (2, 4, 6, 3)
    # all active is white; frames 0 and 4 lie under it
    assert seen[:, 0, 0, 0].tolist() == pytest.approx([0.25, 0.25 + 0.75 * 0.4])
    assert torch.equal(render(trace, "active", 0, "gray", images, 0.0), images[[0, 4]])


def test_colours_run_from_the_first_to_the_last_anchor():
    assert colourise(np.array([0.0, 0.5, 1.0], np.float32), "gray")[:, 0].tolist() == [0, 0.5, 1]
    for name in COLORMAPS:
        steps = colourise(np.linspace(0, 1, 20, dtype=np.float32), name).sum(axis=-1)
        assert bool((np.diff(steps) > 0).all()), f"{name} is not brighter for larger values"


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"view": "speed"}, ("'speed'", "'motion'", "'staleness'")),
        ({"colormap": "jet"}, ("'jet'", "'magma'", "'gray'")),
        ({"upscale": "cubic"}, ("'cubic'", "'nearest'", "'smooth'")),
        ({"step": 4, "view": "active"}, ("step is 5", "had 4", "1 to 4")),
        ({"step": -5, "view": "active"}, ("step is -5", "1 to 4")),
        ({"step": 0}, ("step 1 has no motion map; the first is that of 3, the last", "of 3")),
        ({"images": torch.zeros(4, 4, 3)}, ("(4, 4, 3)", "(N, H, W, 3)")),
    ],
)
def test_a_wrong_request_is_told_what_is_allowed(trace, arguments, words):
    with pytest.raises(MotionCacheError) as error:
        render(trace, **arguments)
    assert all(word in str(error.value) for word in words)


def test_a_run_without_maps_says_how_to_get_one(trace):
    trace.evaluations[2].weight = None
    with pytest.raises(MotionCacheError, match="never reached the motion phase") as error:
        values(trace, "motion")
    assert "Lower warmup_steps" in str(error.value)
    with pytest.raises(MotionCacheError, match="nothing to show"):
        values(Trace(MotionCacheSettings().as_dict()), "active")


def test_a_legend_says_what_the_ends_of_the_colours_mean(trace):
    assert scale(trace, "motion", [2]) == Scale("motion weight", "0.60", "1.00")
    trace.settings["motion_source"] = "residual"
    assert scale(trace, "motion", [2]) == Scale("rate of change", "0.00", "1.00")
    trace.settings["policy"] = "answer"
    assert scale(trace, "motion", [2]) == Scale("change of the model's answer", "0.00", "1.00")
    assert scale(trace, "staleness", [0, 3, 1]).high == "3"
    assert scale(trace, "staleness", [0]).high == "1"
    for view in VIEWS:
        legend = scale(trace, view, [2])
        assert legend.title and legend.low != legend.high


def test_staleness_of_several_evaluations_shares_a_scale(trace):
    first, last = (m.reshape(-1).tolist() for m in maps(trace, "staleness", [1, 3]))
    assert first == pytest.approx([1 / 3] * 12)
    assert last == pytest.approx([1 / 3 if a else 1.0 for a in ACTIVE])
    grey, _ = render_steps(trace, "staleness", [1, 3], "gray", None, 1.0)
    assert grey.unique().tolist() == pytest.approx([1 / 3])


@pytest.mark.parametrize("view", VIEWS)
def test_maps_of_a_long_run_look_at_each_evaluation_a_fixed_number_of_times(
    trace, view, monkeypatch
):
    trace.evaluations *= 10
    looked = []
    mask = Trace.active_mask
    monkeypatch.setattr(Trace, "active_mask", lambda t, i: looked.append(i) or mask(t, i))
    steps = mapped_steps(trace, view)
    assert len(list(maps(trace, view, steps))) == len(steps)
    assert len(looked) <= 2 * len(trace.evaluations)


def test_which_evaluations_have_a_map(trace):
    assert mapped_steps(trace, "motion") == [2]
    assert mapped_steps(trace, "active") == [0, 1, 2, 3]
    assert [which_step(trace, view, -1) for view in VIEWS] == [2, 3, 3, 3]
    assert which_step(trace, "active", 1) == 1


def test_weights_of_residuals_are_shown_as_the_rates_they_are_powers_of(trace):
    rates = np.linspace(0, 1, 12, dtype=np.float32)
    trace.settings |= {"motion_source": "residual", "motion_sensitivity": 0.4}
    trace.evaluations[2].weight = np.round(rates**0.4 * 255).astype(np.uint8)
    assert np.allclose(values(trace, "motion").ravel(), rates, atol=0.01)
