"""What other nodes ask a model for beside the two prompts is foretold from its own answers, and
told apart from theirs in every engine."""

from dataclasses import replace

import pytest
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.tests.nodes.test_forcing_cached import ANSWERS
from motioncache_pack.tests.support.answer_runs import STEPS, small, squared
from motioncache_pack.tests.support.forcing_runs import by_host, clip, wan
from motioncache_pack.tests.support.node_runs import marks
from motioncache_pack.tests.support.second_passes import (
    PRESETS,
    SECOND_PASSES,
    error_of,
    frame_runs,
    mirrored,
    moving_tiles,
    one_by_one,
    plain_errors,
    skip_layer,
    tiles,
)


@pytest.fixture(scope="module")
def plain(pack):
    return plain_errors(pack)


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
    assert (changed < 1e-9) == (put is one_by_one)


@pytest.mark.parametrize("put", [tiles, frame_runs], ids=lambda put: put.__name__)
def test_each_part_of_a_picture_has_tokens_of_its_own(pack, put):
    _, trace = error_of(pack, small(pack), put, "motion")
    assert "p" in marks(trace) and not trace.remarks


@pytest.mark.parametrize("preset", PRESETS)
def test_passes_that_cannot_be_told_apart_are_computed(pack, preset):
    error, trace = error_of(pack, small(pack), moving_tiles, preset)
    assert error < 1e-9 and code_of(trace.remarks[-1]) == "passes_alike"
    assert len(trace.evaluations) == STEPS


@pytest.mark.parametrize("settings", [{}, ANSWERS], ids=["motion", "answer"])
@pytest.mark.parametrize("put", [skip_layer, mirrored], ids=lambda put: put.__name__)
def test_a_second_pass_of_chunks_costs_no_more_than_the_first_one(pack, put, settings):
    noise, options = clip(9), {"chunk_delay": 3, "attention": "bidirectional"}
    errors = []
    for change in (lambda host, model: model, put):
        model = change(pack.host, wan(pack))
        wanted = by_host(pack, model, noise, options, steps=STEPS)
        patched, handle = pack.patch(model, **settings)
        error = squared(by_host(pack, patched, noise, options, steps=STEPS), wanted)
        errors.append((error, len(handle.latest.evaluations)))
        assert not handle.latest.reason
    (plain, before), (error, after) = errors
    assert before == after and 0 < error < 1.5 * plain
