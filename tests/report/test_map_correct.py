"""The motion map against motion that is known: the demo's scenes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core import PRESETS
from motioncache_pack.motioncache_core.demo import checkpoint, clips, codec, scenes
from motioncache_pack.motioncache_core.demo.sampler import SampleOptions, cached_sample
from motioncache_pack.motioncache_core.engine.session import Session
from motioncache_pack.motioncache_core.report.motion_map import mapped_steps, values
from motioncache_pack.motioncache_core.report.trace import Trace
from motioncache_pack.motioncache_core.sampling.model_call import ModelCall
from motioncache_pack.motioncache_core.sampling.run_facts import RunFacts
from motioncache_pack.tests.bench.quality import cell_tracks
from scipy.stats import rankdata, spearmanr

FRAMES, STEPS, TOKENS = 7, 16, 8
# a change that an 8-bit display shows
VISIBLE = 2 / 255


def change(video):
    """Mean absolute difference from the frame before, a token each, `(F, 8, 8)`; the first frame
    has the second one's, as the map has."""
    moved = (video[1:] - video[:-1]).abs().mean(-1)
    moved = torch.nn.functional.avg_pool2d(moved[:, None], scenes.SIZE // TOKENS)[:, 0]
    return torch.cat([moved[:1], moved]).numpy()


def ranks_moving_first(shown, moving):
    """The probability that a moving token has the larger weight of it and a still one."""
    ranks, count = rankdata(shown.ravel()), moving.sum()
    still = moving.size - count
    return (ranks[moving.ravel()].sum() - count * (count + 1) / 2) / (count * still)


# the map is the difference between neighbouring frames, not the change of the blocks' own answer
DIFFERENCE = replace(PRESETS["motion"], motion_source="predicted_x0")
OPTIONS = SampleOptions(steps=STEPS, shift=checkpoint.SHIFT)


@pytest.fixture(scope="module")
def model():
    return checkpoint.load()


@pytest.mark.parametrize("name", scenes.SCENES)
def test_a_model_that_knows_the_scene_has_its_motion_on_the_map(model, name):
    """The model's blocks run, but its answer is the way to the rendered scene: what is left is the
    map itself, from the call to the values that are shown."""
    clip = clips.clip(scenes.SCENES[name], FRAMES)
    clean, noise = codec.encode(clip.video[None]), clip.noise(0)
    sigmas = OPTIONS.sigmas()
    trace = Trace(DIFFERENCE.as_dict())
    session = Session(
        DIFFERENCE, kernels, RunFacts(sigmas=sigmas, profile=checkpoint.profile()), trace
    )
    for sigma in sigmas[:-1]:
        x = sigma * noise + (1 - sigma) * clean
        t = torch.full((1,), 1000 * sigma)

        def run(options, x=x, t=t, sigma=sigma):
            given = torch.cat((x, clip.conditions), dim=1)
            model(given, t, clip.text[0], transformer_options=options)
            return (x - clean) / sigma

        with torch.no_grad():
            session.evaluate(ModelCall(model, run, x, t, ("cond",), {}))
    session.close()
    steps = mapped_steps(trace, "motion")
    assert len(steps) > 4
    known = change(clip.video)
    # the soft edge of a shape reaches on for ever: what is left of it there is no motion
    known[known < VISIBLE / 20] = 0
    agreed = [
        spearmanr(values(trace, "motion", step)[frame].ravel(), known[frame].ravel()).statistic
        for step in steps
        for frame in range(FRAMES)
    ]
    assert min(agreed) > 0.8


@pytest.mark.parametrize(
    ("weights", "draw", "preset"),
    [
        (checkpoint.WEIGHTS, clips.clip, "balanced"),
        (cell_tracks.WEIGHTS, cell_tracks.clip, "balanced"),
        (cell_tracks.WEIGHTS, cell_tracks.clip, "motion"),
    ],
    ids=["demo-balanced", "tracks-balanced", "tracks-motion"],
)
@pytest.mark.parametrize("name", scenes.SCENES)
def test_a_trained_models_map_ranks_what_moves_first(name, weights, draw, preset):
    """Its own predictions are noisy, and most of a scene stands still: among tokens that do not
    move there is no order to agree on. What counts is that moving ones come before them."""
    clip = draw(scenes.SCENES[name], FRAMES, 0)
    profile = checkpoint.profile(weights.with_suffix(".profile.json"))
    _, trace = cached_sample(
        checkpoint.load(weights), *clip.text, clip.noise(0), OPTIONS, PRESETS[preset], kernels,
        RunFacts(sigmas=OPTIONS.sigmas(), profile=profile), conditions=clip.conditions,
    )  # fmt: skip
    moving = change(clip.video) > VISIBLE
    found = [
        ranks_moving_first(values(trace, "motion", step), moving)
        for step in mapped_steps(trace, "motion")
    ]
    # 0.74 to 0.94 when this was written; a map without a clue has 0.5
    assert np.mean(found) > 0.7
