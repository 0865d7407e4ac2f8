"""How many conditionings are counted when memory is planned: those that have a state together."""

import importlib
import random

import pytest
from motioncache_pack.tests.nodes.test_states import in_ranges
from motioncache_pack.tests.support.answer_runs import patch, small


class Falling:
    """A schedule whose noise level is what is left of it."""

    def percent_to_sigma(self, percent):
        return 1.0 - percent


@pytest.fixture
def count(pack):
    module = importlib.import_module("motioncache_pack.nodes.host.run_facts")
    sigmas = [1.0 - k / 20 for k in range(21)]
    return lambda spans, levels=sigmas: module.alive_together(
        [{"start_percent": a, "end_percent": b} for a, b in spans], Falling(), levels
    )


def test_prompts_for_the_whole_run_are_all_counted(count):
    assert count([(0.0, 1.0)] * 5) == 5
    assert count([(None, None)] * 3) == 3
    assert count([]) == 1


@pytest.mark.parametrize("parts", [2, 4, 5, 10])
def test_prompts_that_take_over_count_with_those_they_take_over_from(count, parts):
    spans = [(k / parts + 1e-6, (k + 1) / parts) for k in range(parts)]
    random.Random(parts).shuffle(spans)
    assert count(spans) == 2
    assert count([*spans, (0.0, 1.0)]) == 3


def test_prompts_of_no_step_of_the_run_are_not_counted(count):
    assert count([(0.0, 0.2), (0.5, 1.0), (0.6, 1.0)], [0.3, 0.2, 0.1, 0.0]) == 2
    assert count([(0.0, 1.0), (0.01, 0.02)]) == 1


def test_a_run_of_one_step_and_of_none(count):
    assert count([(0.0, 1.0)] * 2, [1.0, 0.0]) == 2
    assert count([(0.0, 1.0)] * 2, [1.0]) == 1


def test_memory_is_planned_for_as_many(pack, monkeypatch):
    scene, seen = small(pack), []
    module = importlib.import_module("motioncache_pack.nodes.host.engines")
    facts = module.run_facts

    def watched(*args):
        found = facts(*args)
        seen.append(found.branches)
        return found

    monkeypatch.setattr(module, "run_facts", watched)
    patched, _ = patch(pack, scene.model, "motion")
    scene.sample(patched)
    in_ranges(scene, patched, 8)
    assert seen == [2, 3]
