"""Other packs' attention overrides and block replacements stay in force."""

import copy

import torch
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.runs import Run, dictate
from motioncache_pack.tests.core.small_wan import CASES
from motioncache_pack.tests.support.assert_close import assert_close, assert_same
from motioncache_pack.tests.support.toy_models import DoublingNet, adding_attention

CASE = CASES["text to video"]
ROWS = [1, 7, 30]


def counting_attention(calls):
    def override(func, *args, **kwargs):
        calls.append((args[0].shape[1], args[1].shape[1]))
        return func(*args, **kwargs)

    return override


def counting_block(calls, index):
    def replacer(args, extra):
        calls.append((index, args["img"].shape[1]))
        return extra["original_block"](args)

    return replacer


def run_with(options, monkeypatch, *decisions):
    dictate(monkeypatch, *decisions)
    run = Run(CASE.network())
    out = []
    for seed in range(len(decisions)):
        x, t, context, _ = CASE.inputs(seed)
        out.append(run.call(x, t, context, options=options))
    return run, out


def test_an_attention_override_sees_every_call_with_all_keys(monkeypatch):
    calls = []
    options = {"optimized_attention_override": counting_attention(calls)}
    run, _ = run_with(options, monkeypatch, "dense", ROWS, "reuse")
    tokens = CASE.tokens
    # self-attention and text attention of three blocks: all rows, then three rows to all keys
    assert calls == [(tokens, tokens), (tokens, 6)] * 3 + [(3, tokens), (3, 6)] * 3
    assert run.kinds == ["dense", "partial", "reuse"]


def test_a_block_replacer_is_called_around_the_active_rows(monkeypatch):
    calls = []
    replace = {("double_block", i): counting_block(calls, i) for i in range(3)}
    run, _ = run_with({"patches_replace": {"dit": replace}}, monkeypatch, "dense", ROWS, "reuse")
    assert calls == [(i, CASE.tokens) for i in range(3)] + [(i, 3) for i in range(3)]
    assert run.kinds == ["dense", "partial", "reuse"]


def test_hooks_that_change_nothing_change_nothing(monkeypatch):
    _, wanted = run_with({}, monkeypatch, "dense", ROWS, "reuse")
    hooks = {
        "optimized_attention_override": counting_attention([]),
        "patches_replace": {"dit": {("double_block", 1): counting_block([], 1)}},
    }
    _, got = run_with(hooks, monkeypatch, "dense", ROWS, "reuse")
    for a, b in zip(wanted, got, strict=True):
        assert_same("output", a, b)


def test_a_replacers_change_reaches_the_result(monkeypatch):
    def double(args, extra):
        return {"img": 2 * extra["original_block"](args)["img"]}

    dictate(monkeypatch, "dense", [0], "reuse")
    run = Run(DoublingNet(blocks=2, attention=1))
    options = {"patches_replace": {"dit": {("double_block", 0): double}}}
    x = torch.tensor([1.0, 2.0]).reshape(1, 1, 2, 1, 1).repeat(1, 2, 1, 1, 1)

    def numbers(out):
        return out[0, 0].reshape(-1).tolist()

    # block 0: sum 3, (5, 7) doubled is (10, 14); block 1: sum 24, gives (44, 52)
    assert numbers(run.call(x, 1000, options=options)) == [44, 52]
    # row 0 alone, nothing has changed; row 1 reuses 50
    assert numbers(run.call(x, 900, options=options)) == [44, 52]
    assert numbers(run.call(0 * x, 800, options=options)) == [43, 50]


def test_the_callers_options_are_left_as_they_were(monkeypatch):
    replace = {(kind, 1): counting_block([], 1) for kind in ("double_block", "single_block")}
    options = {
        "patches_replace": {"dit": replace, "attn1": {"kept": 1}},
        "patches": {"noise_refiner": [1, 2]},
        "optimized_attention_override": counting_attention([]),
        "sigmas": [1.0],
        "cond_or_uncond": [0],
    }
    before = copy.copy(options)
    nested = {k: copy.copy(v) for k, v in options["patches_replace"].items()}
    run_with(options, monkeypatch, "dense", ROWS, "reuse")
    assert options == before
    assert options["patches_replace"] == nested
    assert options["patches_replace"]["dit"] is replace


def test_the_network_gets_the_hosts_other_options(monkeypatch):
    seen = []

    def look(args, extra):
        seen.append(args["transformer_options"])
        return extra["original_block"](args)

    options = {
        "sigmas": [1.0],
        "own": "word",
        "patches_replace": {"dit": {("double_block", 1): look}},
    }
    run_with(options, monkeypatch, "dense", ROWS)
    assert [o["own"] for o in seen] == ["word", "word"]


def test_a_replacer_that_skips_a_block_makes_every_evaluation_full(monkeypatch):
    def skip(args, extra):
        return args

    options = {"patches_replace": {"dit": {("double_block", 1): skip}}}
    run, out = run_with(options, monkeypatch, "dense", ROWS, "reuse", ROWS)
    assert run.kinds == ["dense", "dense", "reuse", "dense"]
    assert run.decided == ["dense", "partial", "reuse", "partial"]
    notes = [c.note for c in run.trace.calls()]
    assert [code_of(note) for note in notes] == ["", "kv_incomplete", "", "kv_incomplete"]
    for seed in (0, 1, 3):
        x, t, context, _ = CASE.inputs(seed)
        wanted = CASE.network()(x, t, context, transformer_options=copy.deepcopy(options))
        assert_close(f"evaluation {seed}", wanted, out[seed])
    assert [c.blocks for c in run.trace.calls()] == [2, 2, 0, 2]


def test_a_block_that_is_skipped_for_once_is_read_again_after_the_next_full_evaluation(monkeypatch):
    skipping = []

    def sometimes(args, extra):
        return args if skipping else extra["original_block"](args)

    dictate(monkeypatch, "dense", ROWS, "dense", ROWS, "dense", ROWS)
    run = Run(CASE.network())
    for seed, skip in enumerate([False, False, True, False, False, False]):
        skipping[:] = [1] if skip else []
        x, t, context, _ = CASE.inputs(seed)
        run.call(
            x, t, context, options={"patches_replace": {"dit": {("double_block", 1): sometimes}}}
        )
    assert run.kinds == ["dense", "partial", "dense", "dense", "dense", "partial"]


def test_keys_and_values_given_by_name_are_stored_too(monkeypatch):
    dictate(monkeypatch, "dense", [0], "reuse")
    net = DoublingNet(blocks=1, attention=1)

    def attend(x, source, options):
        override = options["optimized_attention_override"]
        return override(adding_attention, x, heads=1, v=source.clone(), k=source.clone())

    net.blocks[0].attend = attend
    run = Run(net, MotionCacheSettings())
    x = torch.ones(1, 2, 3, 1, 1)
    assert run.call(x, 1000)[0, 0].reshape(-1).tolist() == [5, 5, 5]
    # row 0 is 4: values 4 + 1 + 1, so 8 + 6
    y = x.clone()
    y[:, :, 0] = 4
    assert run.call(y, 900)[0, 0].reshape(-1).tolist() == [14, 5, 5]
    assert run.kinds == ["dense", "partial"]
