"""LTX-Video and LTX-2: stores, masks and guides that are easily forgotten."""

from dataclasses import replace

import pytest
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.motioncache_core.models import registry
from motioncache_pack.motioncache_core.models.adapter import nothing_around
from motioncache_pack.motioncache_core.models.ltx2 import LTX2
from motioncache_pack.motioncache_core.models.ltxv import LTXV
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.oracle import random_rows
from motioncache_pack.tests.core.runs import Run, dictate
from motioncache_pack.tests.support.assert_close import assert_same, relative_error
from motioncache_pack.tests.support.families import FAMILIES
from motioncache_pack.tests.support.toy_ltx import SOUND_WIDTH, WIDTH, LTXAVModel, LTXVModel

ROWS = random_rows(36, 12, 4)


def ask(run, call, **more):
    return run.call(call.x, call.t, call.context, **call.more, **more)


def with_run(monkeypatch, adapter, **changes):
    """The adapter with other blocks, alone in the registry."""
    (run,) = adapter.runs
    changed = replace(adapter, runs=(replace(run, **changes),))
    monkeypatch.setattr(registry, "ADAPTERS", (changed,))


def error(monkeypatch, family, *plan, settings=None):
    """Of the last call of a plan, all on the same input, and what the calls executed."""
    dictate(monkeypatch, *plan)
    run, call = Run(family.network, settings), family.call(0, 0)
    for _ in plan:
        got = ask(run, call)
    return relative_error(family.video(call.run(family.network, {})), family.video(got)), run


def test_the_two_classes_of_a_module_prefix_are_told_apart():
    assert registry.find_adapter(LTXVModel()) == (LTXV, None)
    assert registry.find_adapter(LTXAVModel()) == (LTX2, None)


def test_keys_of_both_attentions_to_the_video_are_counted():
    facts = LTX2.facts(LTXAVModel())
    assert LTX2.key_sites(facts) == 2 * 3
    assert LTX2.key_sites(facts) * facts.key_width == 3 * (WIDTH + SOUND_WIDTH)
    assert facts.row_work == 14 * WIDTH**2 + 4 * WIDTH * SOUND_WIDTH
    assert LTXV.facts(LTXVModel()).row_work == 14 * WIDTH**2


def test_sound_needs_a_store_of_its_own(monkeypatch):
    """Without it, it attends to the few rows of the video that are computed, and nobody says so."""
    family = FAMILIES["ltx 2"]()
    kept, _ = error(monkeypatch, family, "dense", ROWS)
    with_run(monkeypatch, LTX2, keys=LTX2.runs[0].keys[:1])
    lost, run = error(monkeypatch, family, "dense", ROWS)
    assert run.kinds == ["dense", "partial"]
    assert kept < 1e-5 and lost > 0.01


@pytest.mark.parametrize("name", ["ltx video, weak guides", "ltx 2, weak guides"])
def test_the_mask_of_guides_starts_behind_fewer_rows(name, monkeypatch):
    family = FAMILIES[name]()
    (run,) = family.adapter.runs

    def uncut(change):
        return lambda args, gather: {
            **change(args, gather),
            "self_attention_mask": args["self_attention_mask"],
        }

    right, _ = error(monkeypatch, family, "dense", ROWS)
    with_run(monkeypatch, family.adapter, take=uncut(run.take), enter=uncut(run.enter))
    # guides are then taken for the video
    wrong, _ = error(monkeypatch, family, "dense", ROWS)
    assert right < 1e-5 and wrong > 1e-3


def test_guides_are_no_frames_of_the_map(monkeypatch):
    family = FAMILIES["ltx video, few rows of guides"]()
    right, run = error(monkeypatch, family, "dense", ROWS)
    assert right < 1e-5 and run.trace.grid == (3, 3, 4)
    (_, second) = run.trace.calls()
    assert (second.computed, second.around) == (12, 19)
    bare = replace(LTXV, around=nothing_around)
    monkeypatch.setattr(registry, "ADAPTERS", (bare,))
    _, run = error(monkeypatch, family, "dense", ROWS)
    assert run.kinds == []


@pytest.mark.parametrize("kv_cache", ["gpu", "off"])
def test_sound_where_the_video_is_reused(kv_cache, monkeypatch):
    family = FAMILIES["ltx 2"]()
    settings = MotionCacheSettings(kv_cache=kv_cache, dense_last=False)
    wrong, run = error(monkeypatch, family, "dense", "reuse", settings=settings)
    assert wrong < 1e-5
    assert run.kinds == ["dense", "partial" if kv_cache == "gpu" else "reuse"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ltx video", {"stg_skip_self_attn": True}),
        ("ltx 2", {"stg_self_attn_blocks": [1]}),
        ("ltx 2", {"run_vx": False}),
        ("ltx 2", {"a2v_cross_attn": False}),
    ],
)
def test_parts_of_blocks_that_are_left_out_pass_through(name, options):
    family = FAMILIES[name]()
    run, call = Run(family.network), family.call(0, 0)
    wanted = family.video(call.run(family.network, options))
    assert_same("answer", wanted, family.video(ask(run, call, options=options)))
    assert code_of(run.trace.reason) == "block_patch" and next(iter(options)) in run.trace.reason
