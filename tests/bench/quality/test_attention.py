"""The bench of the two attentions: what it compares with what, and that its tables show it."""

from __future__ import annotations

import argparse

import pytest

CLIPS = 6


def record(share, engine, psnr, rendered=None, budget=None):
    return {
        "flops_share": share, "engine_share": engine, "psnr": psnr, "rendered_psnr": rendered,
        "settings": {"compute_budget": budget},
    }  # fmt: skip


@pytest.fixture
def found(bench):
    """Figures of clips whose decibels are the work in per cent, some more for block-causal, and
    a clip's number."""
    attention = bench("quality.attention")
    cases = bench("quality.cases")
    causal, both = cases.FORCING, cases.BIDIRECTIONAL

    def sweep(engine, more, clip):
        return [
            record(s / engine, engine, 100 * s + more + clip, budget=budget)
            for s, budget in ((0.1, 0.2), (0.2, 0.3), (0.25, 0.4), (0.4, 0.5))
        ]

    def runs(engine, ours, theirs):
        return {
            attention.MOTION: [sweep(engine, ours, clip) for clip in range(CLIPS)],
            attention.WHOLE: [sweep(engine, theirs, clip) for clip in range(CLIPS)],
        }

    made = {causal: runs(0.5, 7, 5), both: runs(1.0, 3, 2)}
    made[both][attention.AT_WORK] = [[record(0.65, 1.0, 60 + c)] for c in range(CLIPS)]
    uncached = {
        causal: [record(1.0, 0.5, 99, 20 + c) for c in range(CLIPS)],
        both: [record(1.0, 1.0, 99, 22 + c) for c in range(CLIPS)],
    }
    return attention.figures(made, uncached, [30.0 + c for c in range(CLIPS)])


def test_the_tables_show_each_figure(bench, found):
    """Work is a share of the bidirectional run's, and differences are those at equal work."""
    told = bench("quality.attention_report").markdown(found)
    ours, theirs = "motion (ours)", "chunk + forecast"
    for cells in (
        "| bidirectional, uncached | 100% | 24.5 [",
        "| bidirectional, chunks at work only | 65% |  | 62.5 [",
        # 25 + 3 + 2.5
        "| bidirectional, compute_budget 0.4 | 25% |  | 30.5 [",
        "| block-causal, uncached | 50% | 22.5 [",
        "| block-causal over bidirectional |  | -2.0 [-2.0, -2.0] |  |",
        # 100 * work + 7 + a clip's number, which is 2.5 in the mean
        f"| {ours}, block-causal | 29.5 [",
        f"| {ours}, block-causal over {ours}, bidirectional |" + 3 * " +4.0 [+4.0, +4.0] |",
        f"| {ours}, block-causal over {theirs}, block-causal |" + 3 * " +2.0 [+2.0, +2.0] |",
        f"| {ours}, bidirectional over {theirs}, bidirectional |" + 3 * " +1.0 [+1.0, +1.0] |",
    ):
        assert cells in told, told
    assert "| 32.5 [" in next(line for line in told.splitlines() if "uncached | 50%" in line)


def test_the_bidirectional_grid_has_the_run_of_the_chunks_at_work(bench):
    attention, cases = bench("quality.attention"), bench("quality.cases")
    grids = {mode: attention.grid(cases.case(mode, 1), True) for mode in attention.NAMES}
    (at_work,) = grids[cases.BIDIRECTIONAL].pop(attention.AT_WORK)
    assert at_work.kind == "cached" and at_work.settings.warmup_steps > 24
    assert list(grids[cases.BIDIRECTIONAL]) == list(grids[cases.FORCING])
    (without,) = grids[cases.BIDIRECTIONAL]["none"]
    assert without.settings.reuse_threshold == without.settings.compute_budget == 0


@pytest.mark.parametrize(
    ("model", "steps", "name"),
    [
        ("tracks", 24, "ablations"),
        ("confirmation", 24, "ablations_confirmation"),
        ("confirmation", 50, "ablations_confirmation_50_steps"),
    ],
)
def test_no_model_or_length_writes_over_anothers_file(bench, model, steps, name):
    given = argparse.Namespace(model=model, steps=steps)
    assert bench("quality.bench").result_name("ablations", given) == name
