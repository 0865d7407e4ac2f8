"""What goes wrong in Wan's family without each precaution. Where the host would raise, it needs no
test; these answer, and answer wrongly."""

from dataclasses import replace

import pytest
from motioncache_pack.motioncache_core.models import registry
from motioncache_pack.motioncache_core.models.adapter import Around
from motioncache_pack.motioncache_core.models.wan import BLOCKS
from motioncache_pack.tests.core.oracle import random_rows
from motioncache_pack.tests.core.runs import dictate
from motioncache_pack.tests.models.test_contract import Run
from motioncache_pack.tests.support.assert_close import relative_error
from motioncache_pack.tests.support.families import FAMILIES
from motioncache_pack.tests.support.family import Oracle


def wrong(monkeypatch, family, **changes):
    """Relative error of rows computed in the second call, where the adapter leaves something
    out."""
    # as many as there may be in all frames, but not as many in each
    rows = random_rows(family.tokens, family.tokens // 3, 5)
    monkeypatch.setattr(registry, "ADAPTERS", (replace(family.adapter, **changes),))
    dictate(monkeypatch, "dense", rows)
    run, oracle = Run(family), Oracle(family)
    for step, active in enumerate((range(family.tokens), rows)):
        call = family.call(step, 0)
        wanted, got = family.video(oracle.call(call, active)), run.video(call)
    return relative_error(wanted, got)


@pytest.mark.parametrize("name", ["s2v", "dancer"])
def test_rows_gathered_once_take_the_words_of_other_frames(monkeypatch, name):
    family = FAMILIES[name]()
    assert wrong(monkeypatch, family) < 1e-5
    assert wrong(monkeypatch, family, runs=(BLOCKS,)) > 0.1


def test_a_reference_in_front_is_no_context_behind(monkeypatch):
    family = FAMILIES["scail"]()
    assert wrong(monkeypatch, family) < 1e-5
    behind = Around(0, 24 + 8)
    assert wrong(monkeypatch, family, around=lambda *_: behind) > 0.1


def test_rows_that_are_not_put_back_sing_the_words_of_other_frames(monkeypatch):
    family = FAMILIES["humo"]()
    (run,) = family.adapter.runs
    assert wrong(monkeypatch, family) < 1e-5
    assert wrong(monkeypatch, family, runs=(replace(run, queries=()),)) > 0.1
