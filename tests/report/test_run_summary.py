"""The report's numbers by hand, and sentences that say what happened and what to change."""

import json

import pytest
from motioncache_pack.motioncache_core.report.node_text import progress
from motioncache_pack.motioncache_core.report.report_json import SCHEMA, as_json, summary
from motioncache_pack.motioncache_core.report.report_text import line, text
from motioncache_pack.motioncache_core.report.run_summary import RunSummary
from motioncache_pack.motioncache_core.report.trace import (
    CallRecord,
    ChunkRecord,
    EvaluationRecord,
    Trace,
)
from motioncache_pack.motioncache_core.settings import PRESETS, MotionCacheSettings

TOKENS = 20


def evaluation(index, kind, active, phase="motion", calls=(), scope="all branches", distance=0.05):
    chunk = ChunkRecord(kind, phase, active, TOKENS, distance)
    return EvaluationRecord(index, 1 - index / 10, scope, (chunk,), list(calls))


def call(kind, computed, seconds, rows=2, note=""):
    blocks = 0 if kind == "reuse" else 3
    return CallRecord(kind, 2, rows, computed, blocks, seconds, note)


@pytest.fixture
def trace():
    """Two full calls, one of 5 of 20 rows, one reused; one more full call in two halves."""
    return Trace(
        MotionCacheSettings().as_dict(),
        model="Wan",
        distance="steady",
        grid=(5, 2, 2),
        chunks=(5,),
        blocks=3,
        row_work=6 * 8 * 8 + 2 * 8 * 16,
        pair_work=2 * 8,
        seconds=9.5,
        residual_bytes=3 * 2**20,
        kv_bytes=2**21,
        kv_reason="2 MiB on the model's device",
        finished=True,
        evaluations=[
            evaluation(0, "dense", TOKENS, "warm-up", [call("dense", TOKENS, 2.0)]),
            evaluation(1, "dense", TOKENS, "uniform", [call("dense", TOKENS, 4.0)]),
            evaluation(2, "partial", 5, "motion", [call("partial", 5, 1.0)]),
            evaluation(3, "reuse", 0, "motion", [call("reuse", 0, 0.5)]),
            evaluation(4, "dense", TOKENS, "last", [call("dense", TOKENS, 1.5, 1, "new")] * 2),
        ],
    )


def test_shares_by_hand(trace):
    # 40 + 40 + 10 + 0 + 20 + 20 of 200 rows
    run = RunSummary(trace)
    assert run.compute_share == run.flops_share == pytest.approx(130 / 200)
    assert run.engine_share == 1


def test_what_runs_beside_the_blocks_is_work_that_no_reuse_saves(trace):
    # as much again for all 20 rows, in the reused call too
    trace.beside = (trace.row_work, trace.pair_work)
    run = RunSummary(trace)
    assert run.compute_share == pytest.approx(130 / 200)
    assert run.flops_share == pytest.approx((130 + 200) / (200 + 200))


def test_saved_seconds_are_those_of_full_calls_less_what_the_others_took(trace):
    # full calls behind the first one: 2 rows in 4 s, 1 and 1 in 1.6 s each, so a median of 1.6 s a
    # row. The partial call and the reused one have 2 rows each, and took 1 s and 0.5 s
    trace.blocks = 0
    for late in trace.evaluations[4].calls:
        late.seconds = 1.6
    run = RunSummary(trace)
    assert run.seconds_saved() == pytest.approx(2 * 2 * 1.6 - 1.5)
    assert run.seconds_without() == pytest.approx(9.5 + 4.9)
    assert run.speed_up() == pytest.approx(14.4 / 9.5)


def test_full_calls_that_keep_something_of_the_blocks_are_slower_than_without(trace):
    assert RunSummary(trace).seconds_saved() == pytest.approx(2 * 2 * 1.5 - 1.5)


def test_the_packs_own_time_is_not_that_of_a_run_without_it(trace):
    trace.own_seconds = 2.5
    assert RunSummary(trace).seconds_without() == pytest.approx(9.5 + 4.5 - 2.5)


def test_the_first_call_counts_where_it_is_the_only_full_one(trace):
    trace.evaluations = [trace.evaluations[0], trace.evaluations[3]]
    assert RunSummary(trace).seconds_saved() == pytest.approx(2.0 - 0.5)


def test_a_cache_that_costs_more_than_it_saves_is_told(trace):
    trace.own_seconds = 8.0
    assert RunSummary(trace).seconds_saved() == pytest.approx(-3.5)
    assert RunSummary(trace).speed_up() < 1


def test_nothing_is_estimated_without_both_kinds_of_calls(trace):
    nothing = RunSummary(Trace({}))
    assert nothing.seconds_saved() is None and nothing.speed_up() is None
    assert nothing.compute_share == nothing.flops_share == nothing.engine_share == 1.0
    whole, rest = trace.evaluations[:2], trace.evaluations[2:4]
    for trace.evaluations in (whole, rest):
        assert RunSummary(trace).seconds_without() is None


def test_the_summary_is_json_and_complete(trace):
    data = json.loads(as_json(trace))
    assert data["schema"] == SCHEMA
    assert data["tokens"] == {"grid": [5, 2, 2], "chunks": [5], "total": 20}
    totals = data["totals"]
    counts = {k: totals[k] for k in ("evaluations", "dense", "partial", "reuse", "calls")}
    assert counts == {"evaluations": 5, "dense": 3, "partial": 1, "reuse": 1, "calls": 6}
    assert totals["block_calls"] == 15
    assert totals["compute_share"] == 0.65
    assert totals["seconds_saved"] == 4.5 and totals["speed_up"] == round(14 / 9.5, 6)
    assert data["memory"]["kv_bytes"] == 2**21
    assert data["reason"] is None
    assert [e["kind"] for e in data["evaluations"]] == [
        "dense",
        "dense",
        "partial",
        "reuse",
        "dense",
    ]
    assert data["evaluations"][2]["chunks"][0] == {
        "kind": "partial", "phase": "motion", "active": 5, "tokens": 20, "distance": 0.05,
    }  # fmt: skip
    assert data["evaluations"][4]["calls"][0]["note"] == "new"
    assert set(data["settings"]) == set(MotionCacheSettings().as_dict())


def test_the_text_says_what_the_host_keeps(trace):
    assert "keys and values 2.0 MiB (2 MiB on the model's device)" in text(trace)
    trace.kv_host_bytes = 3 * 2**19
    assert "keys and values 2.0 MiB and 1.5 MiB on the cpu (2 MiB" in text(trace)
    assert json.loads(as_json(trace))["memory"]["kv_host_bytes"] == 3 * 2**19


def test_the_text_says_what_is_kept_of_answers(trace):
    """Beside residuals, keys and values where chunks are told apart; instead of them where not."""
    trace.answer_bytes = 3 * 2**20
    kept = "keys and values 2.0 MiB (2 MiB on the model's device)"
    assert f"Memory: answers 3.0 MiB, residuals 3.0 MiB, {kept}" in text(trace)
    trace.residual_bytes, trace.kv_bytes, trace.kv_reason, trace.distance = 0, 0, "", ""
    trace.blocks, trace.preset = 0, "balanced"
    trace.settings = PRESETS["balanced"].as_dict()
    lines = text(trace).splitlines()
    assert "Model: Wan, 5x2x2 tokens in 1 chunk(s)" in lines
    assert "Memory: answers 3.0 MiB" in lines
    assert "Preset: balanced (warmup_steps 1, compute_budget 0.4, forecast 1)" in lines
    assert not any(line.startswith("Distance") for line in lines)
    assert json.loads(as_json(trace))["memory"]["answer_bytes"] == 3 * 2**20


def test_the_line_and_the_text_say_what_was_saved(trace):
    assert line(trace) == (
        "5 evaluations (3 dense, 1 partial, 1 reuse); 65% of the token work computed, "
        "1.54x less than without."
    )
    report = text(trace)
    assert "3 blocks, 5x2x2 tokens in 1 chunk(s)" in report
    assert "residuals 3.0 MiB, keys and values 2.0 MiB (2 MiB on the model's device)" in report
    assert (
        "Time: 9.50 s in the sampler, about 1.47x faster than without (estimate: 14.00 s, from the "
        "evaluations of this run that were computed in full)"
    ) in report
    assert "all branches: DD2.D" in report
    assert "Note: new (2 calls)" in report


def test_chunks_and_scopes_get_rows_of_their_own(trace):
    chunks = (ChunkRecord("dense", "motion", 8, 8, None), ChunkRecord("reuse", "motion", 0, 12, 0))
    trace.evaluations = [
        EvaluationRecord(i, 1.0, f"branch {i % 2}", chunks, [call("partial", 8, 1.0)])
        for i in range(4)
    ]
    report = text(trace)
    for scope in ("branch 0", "branch 1"):
        assert f"{scope}, chunk 0: DD\n" in report
        assert f"{scope}, chunk 1: .." in report


@pytest.mark.parametrize(
    "evaluations, wanted",
    [
        ([], "not called through its block hooks"),
        ([evaluation(0, "dense", 20, "warm-up", [call("dense", 20, 1)])], "lower warmup_steps"),
        (
            [
                evaluation(0, "dense", 20, "warm-up", [call("dense", 20, 1)], distance=None),
                evaluation(1, "dense", 20, "uniform", [call("dense", 20, 1)], distance=0.31),
            ],
            "(up to 0.31) reached reuse_threshold 0.1 every time. Raise it",
        ),
    ],
)
def test_why_nothing_was_reused(evaluations, wanted):
    trace = Trace(MotionCacheSettings(reuse_threshold=0.1).as_dict(), evaluations=evaluations)
    why = RunSummary(trace).why
    assert wanted in why
    assert line(trace) == f"nothing was reused: {why}."
    assert why in text(trace)
    assert summary(trace)["reason"] == why


def test_a_declined_run_tells_its_reason(trace):
    trace.evaluations = []
    trace.declined_calls = [CallRecord("declined", 2, 2, 0, seconds=1.0)]
    trace.decline("6 sampling steps: too few")
    assert "nothing was reused: 6 sampling steps: too few." in text(trace)
    assert progress(trace).split() == [
        "nothing",
        "was",
        "reused:",
        "6",
        "sampling",
        "steps:",
        "too",
        "few",
    ]
    assert summary(trace)["totals"]["declined_calls"] == 1
