"""Where the motion weights of a run come from, by hand on the network that doubles.

Weights are 0.6 for the token that moves least and 1 for the one that moves most: 153 and 255 in
the trace's bytes.
"""

from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.runs import Run, Steady
from motioncache_pack.tests.support.toy_models import DoublingNet

STILL, MOVING = 153, 255
FEATURES = MotionCacheSettings(
    warmup_steps=1, uniform_updates=0, motion_source="features", agreement=0.0,
    min_update_ratio=0.0, reuse_threshold=0.1,
)  # fmt: skip
PREDICTED = replace(FEATURES, motion_source="predicted_x0")


def frames(*rows):
    """A latent whose frames hold these tokens."""
    x = torch.tensor(rows, dtype=torch.float32)
    return x.reshape(1, 1, *x.shape, 1).repeat(1, 2, 1, 1, 1)


def weights(settings, *calls, **facts):
    """Weights of every evaluation after calls `(x, timestep, branches)`."""
    run = Run(DoublingNet(blocks=1, attention=1), settings, profile=Steady(0.05), **facts)
    for x, t, branches in calls:
        run.call(x, t, branches=branches)
    run.session.close()
    return [None if e.weight is None else e.weight.tolist() for e in run.trace.evaluations]


def test_a_reused_call_has_features_too():
    x, y = frames([1, 1], [1, 5]), frames([1, 1], [5, 1])
    # 0.05 is not due, so the second call reuses: its features are y + residuals of x,
    # 1 + 9, 1 + 9, then 5 + 9, 1 + 13
    found = weights(FEATURES, (x, 1000, ("c",)), (y, 900, ("c",)), (y, 800, ("c",)))
    assert found[1] == [STILL, MOVING] * 2
    assert found[2] == [STILL, STILL] * 2


def test_predicted_x0_uses_the_noise_level_of_each_frame():
    # sum 4. Frame 0 at sigma 1/2 is -2, -2; frame 1 at sigma 0 is its input 1, 0
    x, t = frames([1, 2], [1, 0]), torch.tensor([[500.0, 0.0]])
    assert weights(PREDICTED, (x, t, ("c",)), (x, t - 0.5, ("c",)))[1] == [MOVING, STILL] * 2


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("settings", [FEATURES, PREDICTED])
def test_branches_are_averaged_and_one_that_is_gone_counts_no_more(settings, batched):
    # in a branch of its own, position 0 moves in u and position 1, three times as much, in c
    u, c = frames([4, 4], [5, 4]), frames([4, 4], [4, 7])
    both = [(torch.cat((u, c)), ("u", "c"))] if batched else [(u, ("u",)), (c, ("c",))]
    calls = [(x, 0.003 if settings is PREDICTED else 1000, names) for x, names in both]
    later = [(u, t, ("u",)) for t in (0.002, 0.001)]
    found = weights(settings, *calls, *later)
    assert found[1] == [STILL, MOVING] * 2
    # u alone
    assert found[2] == [MOVING, STILL] * 2


def test_separate_masks_weigh_each_branch_by_its_own_motion():
    u, c = frames([4, 4], [5, 4]), frames([4, 4], [4, 7])
    settings = replace(FEATURES, cfg_mask="separate")
    found = weights(settings, *[(torch.cat((u, c)), t, ("u", "c")) for t in (1000, 900)])
    assert found == [None, None, [MOVING, STILL] * 2, [STILL, MOVING] * 2]


def test_a_chunks_first_frame_looks_at_the_chunk_before():
    # sum 24, y = 2x + 24. Position 1 moves from frame 1 to frame 2, the first of chunk 1;
    # position 0 from frame 2 to frame 3
    x = frames([1, 1], [1, 1], [1, 5], [9, 5])
    found = weights(FEATURES, (x, 1000, ("c",)), (x, 900, ("c",)), chunks=(2, 2))
    assert found[1] == [STILL, STILL, STILL, STILL, STILL, MOVING, MOVING, STILL]


def test_no_motion_map_is_made_before_the_motion_phase():
    settings = replace(FEATURES, warmup_steps=2, uniform_updates=1)
    x = frames([1, 1], [1, 5])
    # warm-up, warm-up, reuse, update: the fifth is the first that weighs
    calls = [(x, 1000 - 100 * i, ("c",)) for i in range(5)]
    assert weights(settings, *calls) == [None] * 4 + [[STILL, MOVING] * 2]


RESIDUAL = replace(
    FEATURES, motion_source="residual", motion_sensitivity=0.5, warmup_steps=2, forecast=0.5
)


@pytest.mark.parametrize("forecast", [0.0, 0.5])
@pytest.mark.parametrize("batched", [True, False])
def test_the_residuals_own_change_is_taken_where_tokens_were_computed(forecast, batched):
    # sum 4 and then 8, y - x = x + sum: changes by 4, 4, 4, 8. The root of a half is 180 / 255
    a, b = frames([1, 1], [1, 1]), frames([1, 1], [1, 5])
    settings = replace(RESIDUAL, forecast=forecast)

    def calls(x, t):
        return [(torch.cat((x, x)), t, ("u", "c"))] if batched else [(x, t, (n,)) for n in "uc"]

    # the third reuses, from which there is nothing to learn
    steps = [(a, 1000), (b, 900), (a, 800), (b, 700)]
    found = weights(settings, *[call for step in steps for call in calls(*step)])
    assert found[:2] == [None, None]
    assert found[2] == found[3] == [180, 180, 180, 255]


def test_a_partial_evaluation_changes_the_weights_of_its_tokens_alone():
    settings = replace(RESIDUAL, reuse_threshold=0.05, update_share=0.25, warmup_steps=3)
    a, b = frames([1, 1], [1, 1]), frames([1, 1], [1, 5])
    run = Run(DoublingNet(blocks=1, attention=1), settings, profile=Steady(0.05))
    for x, t in ((a, 1000), (b, 900), (a, 800), (b, 700), (b, 600)):
        run.call(x, t)
    run.session.close()
    # from 8 to 4: 4, 4, 4, 8 once more, so the last token is the most due. At 700 it goes from
    # 5 to 13, the others wait; at 600 nothing is due before the other three
    assert run.trace.active_mask(3).tolist() == [False, False, False, True]
    assert run.trace.evaluations[4].weight.tolist() == [180, 180, 180, 255]
    assert run.trace.active_mask(4).tolist() == [True, False, False, False]


def test_without_a_motion_phase_no_slope_is_kept_for_it():
    assert RESIDUAL.keeps_slope and replace(RESIDUAL, forecast=0.0).keeps_slope
    assert not replace(RESIDUAL, forecast=0.0, policy="chunk").keeps_slope
    assert not FEATURES.keeps_slope
