"""ComfyUI's own nodes that ask a model for more than the two prompts."""

import importlib

import pytest
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.tests.support.answer_runs import STEPS, small
from motioncache_pack.tests.support.node_runs import marks
from motioncache_pack.tests.support.second_passes import (
    PRESETS,
    error_of,
    plain_errors,
)

pytestmark = pytest.mark.comfy


def skip_layer_guidance(host, model):
    node = importlib.import_module("comfy_extras.nodes_slg").SkipLayerGuidanceDiT
    return node.execute(model, 1.0, 0.0, 1.0, "1", "", 0.0).result[0]


def skip_layer_of_one_prompt(host, model):
    node = importlib.import_module("comfy_extras.nodes_slg").SkipLayerGuidanceDiTSimple
    return node.execute(model, 0.0, 1.0, "1", "").result[0]


PASSES = [skip_layer_guidance, skip_layer_of_one_prompt]


@pytest.fixture(scope="module")
def plain(pack):
    return plain_errors(pack)


@pytest.mark.parametrize("order", ["before", "behind"])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("put", PASSES, ids=lambda put: put.__name__)
def test_a_second_pass_costs_no_more_than_the_first_one(pack, plain, put, preset, order):
    error, trace = error_of(pack, small(pack), put, preset, order)
    assert 0 < error < 1.5 * plain[preset]
    # evaluations are the sampler's, whatever calls they take
    assert len(trace.evaluations) == STEPS and not trace.reason
    assert "." in marks(trace)


@pytest.mark.parametrize("put", PASSES, ids=lambda put: put.__name__)
def test_answers_that_are_compared_are_whole(pack, put):
    _, trace = error_of(pack, small(pack), put, "motion")
    (lost,) = trace.remarks
    assert code_of(lost) == "tokens_lost"
    assert set(marks(trace)) == {"D", "."}
