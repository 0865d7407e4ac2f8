"""What other nodes ask a model for beside the two prompts is foretold from its own answers, and told
apart from them in every engine."""

from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.tests.support import second_passes
from motioncache_pack.tests.support.answer_runs import STEPS, demo, patch, small, squared
from motioncache_pack.tests.support.node_runs import marks
from motioncache_pack.tests.support.second_passes import SECOND_PASSES

PRESETS = ("quality", "balanced", "motion")


def error_of(pack, scene, put, preset, order="before"):
    """Relative squared error against the uncached run of the same graph, and the trace."""
    wanted = scene.sample(put(pack.host, scene.model))
    if order == "before":
        model, handle = patch(pack, put(pack.host, scene.model), preset)
    else:
        model, handle = patch(pack, scene.model, preset)
        model = put(pack.host, model)
    return squared(scene.sample(model), wanted), handle.latest


def alone(host, model):
    return model


@pytest.fixture(scope="module")
def plain(pack):
    """The error of a plain run, by preset."""
    return {preset: error_of(pack, small(pack), alone, preset)[0] for preset in PRESETS}


@pytest.mark.parametrize("order", ["before", "behind"])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("put", SECOND_PASSES, ids=lambda put: put.__name__)
def test_a_second_pass_costs_no_more_than_the_first_one(pack, plain, put, preset, order):
    error, trace = error_of(pack, small(pack), put, preset, order)
    assert 0 < error < 1.5 * plain[preset]
    # evaluations are the sampler's, whatever calls they take
    assert len(trace.evaluations) == STEPS and not trace.reason
    assert "." in marks(trace)


@pytest.mark.parametrize("put", SECOND_PASSES, ids=lambda put: put.__name__)
def test_these_passes_matter(pack, put):
    scene = replace(small(pack), steps=3)
    changed = squared(scene.sample(put(pack.host, scene.model)), scene.sample(scene.model))
    assert (changed < 1e-9) == (put is second_passes.one_by_one)
