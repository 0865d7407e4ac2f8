"""MiniMax H3: sound is never reused where keys are kept, and segments end where their rows do."""

from dataclasses import replace

from motioncache_pack.motioncache_core.models import registry
from motioncache_pack.motioncache_core.models.minimax import MINIMAX_H3
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.oracle import random_rows
from motioncache_pack.tests.core.runs import Run, dictate
from motioncache_pack.tests.support.assert_close import assert_close, relative_error
from motioncache_pack.tests.support.families import FAMILIES
from motioncache_pack.tests.support.toy_minimax import HEAD, HEADS, WIDTH, MiniMaxH3Model


def ask(run, call):
    return run.call(call.x, call.t, call.context, **call.more)


def test_keys_are_wider_than_tokens():
    facts = MINIMAX_H3.facts(MiniMaxH3Model())
    keys, ffn = HEADS * HEAD, 2 * WIDTH
    assert (facts.width, facts.heads, facts.key_width) == (WIDTH, HEADS, keys)
    assert facts.row_work == 4 * WIDTH * keys + 3 * WIDTH * ffn
    assert registry.find_adapter(MiniMaxH3Model()) == (MINIMAX_H3, None)


def test_sound_is_computed_where_the_video_is_reused(monkeypatch):
    family = FAMILIES["minimax h3"]()
    dictate(monkeypatch, "dense", "reuse")
    run = Run(family.network)
    ask(run, family.call(0, 0))
    call = family.call(1, 0)
    sound = ask(run, call)[1]
    (_, second) = run.trace.calls()
    assert (second.kind, second.computed, second.blocks) == ("partial", 1, 3)
    assert second.pairs == 13 * 48
    held = replace(MINIMAX_H3, answers_beside=False)
    monkeypatch.setattr(registry, "ADAPTERS", (held,))
    dictate(monkeypatch, "dense", "reuse")
    run = Run(family.network)
    ask(run, family.call(0, 0))
    # what was held is not what is computed
    assert relative_error(sound, ask(run, call)[1]) > 0.01


def test_without_keys_sound_is_reused_with_the_video(monkeypatch):
    family = FAMILIES["minimax h3"]()
    dictate(monkeypatch, "dense", "reuse")
    run = Run(family.network, MotionCacheSettings(kv_cache="off", dense_last=False))
    call = family.call(0, 0)
    first, second = ask(run, call), ask(run, call)
    assert run.kinds == ["dense", "reuse"]
    for wanted, got in zip(first, second, strict=True):
        assert_close("answer", wanted, got)


def test_levels_of_rows_go_with_their_tokens(monkeypatch):
    family = FAMILIES["minimax h3, rows at levels of their own"]()
    (run,) = MINIMAX_H3.runs

    def take(args, gather):
        taken = run.take(args, gather)
        start, end, row = taken["mod_segments"][-1]
        by_place = args["mod_segments"][-1][2][: end - start]
        assert len(row) == len(by_place)
        return {**taken, "mod_segments": [*taken["mod_segments"][:-1], (start, end, by_place)]}

    adapter = replace(MINIMAX_H3, runs=(replace(run, take=take, enter=run.enter),))
    monkeypatch.setattr(registry, "ADAPTERS", (adapter,))
    dictate(monkeypatch, "dense", random_rows(family.tokens, 9, 1))
    cached, call = Run(family.network), family.call(0, 0)
    ask(cached, call)
    assert relative_error(call.run(family.network, {})[0], ask(cached, call)[0]) > 0.01
