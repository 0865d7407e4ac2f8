"""What the rivals' table tells of the figures."""

from __future__ import annotations

import pytest


@pytest.fixture
def data(bench):
    """A result of two clips, or of as many as are given."""
    table = bench("rivals.table")

    def made(ours, theirs):
        settings = [{"knob": 1}]

        def entry(values):
            return {"at": {"8": table.told([table.Run(0, 8.5, v) for v in values], settings)}}

        found = {"ours": entry(ours), "rival": entry(theirs), "broken": {"why": "it crashes"}}
        apart = table.ahead(found["ours"]["at"]["8"], found["rival"]["at"]["8"])
        model = {"contestants": found, "ahead": {"ours - rival": {"8": apart}}}
        return {
            "steps": 24,
            "evaluations": [8],
            "seeds": list(range(len(ours))),
            "models": {"demo": model},
            "loaded": {"rival": {"how": "as ComfyUI does", "version": "abc"}},
        }

    return made


def test_the_table_tells_means_counts_and_the_difference(bench, data):
    table = bench("rivals.table")
    rows = table.model_table(data([60.0, 50.0], [50.0, 46.0]), "demo").splitlines()
    assert rows[0] == "| demo: evaluations of 24 | 8 |"
    assert "| ours | 55.0 (at 8.5) |" in rows
    # two clips give no interval
    assert "| rival | 48.0 (at 8.5); +7.0 |" in rows
    assert rows[-1] == "| broken | - |"


def test_the_closest_rival_is_told_and_ours_are_none(bench, data):
    table = bench("rivals.table")
    made = data([60.0, 50.0], [50.0, 46.0])
    found = made["models"]["demo"]["ahead"]
    for name, mean in (("preset of ours", -9.0), ("better, order 2", -1.0)):
        found[f"ours - {name}"] = {"8": {**found["ours - rival"]["8"], "mean": mean}}
    found["ours - fewer steps"] = {"8": {**found["ours - rival"]["8"], "mean": -8.0}}
    made["loaded"] |= {"preset of ours": {"how": "this pack"}, "better, order 2": {"how": "x"}}
    assert table.closest(made, "demo")["8"][0] == "better, order 2"
    assert table.overview(made).splitlines()[-1] == "| demo | -1.0 better |"


def test_a_verdict_names_what_is_rare(bench, data):
    table = bench("rivals.table")
    made = data([60.0, 50.0], [50.0, 46.0])
    found = made["models"]["demo"]["ahead"]["ours - rival"]
    far = {"mean": 3.0, "low": 1.0, "high": 4.0, "clips": 6}
    found |= {"7": far, "10": far, "12": {**far, "low": -4.0, "high": -1.0}, "14": far}
    assert table.verdict(made) == (
        "Of 5 models and counts ours is ahead at 3, level at 1 (demo 8), behind at 1 (demo 12); "
        "level is where 0 is inside."
    )


def test_six_clips_give_an_interval_that_holds_the_mean(bench, data):
    ours = [50.0 + i for i in range(6)]
    made = data(ours, [x - 2 - i % 2 for i, x in enumerate(ours)])
    apart = made["models"]["demo"]["ahead"]["ours - rival"]["8"]
    assert apart["low"] < apart["mean"] == 2.5 < apart["high"]
    assert "; +2.5 [+" in bench("rivals.table").model_table(made, "demo")


def test_what_has_no_number_says_why(bench, data):
    lines = bench("rivals.table").remarks(data([1.0], [2.0]))
    assert lines == ["- rival: as ComfyUI does; abc.", "- broken on demo: no number, it crashes."]


def test_a_cell_marks_what_may_be_nothing(bench, data):
    made = data([50.0, 50.0, 50.0, 50.0, 50.0, 51.0], [48.0, 48.0, 48.0, 47.0, 48.0, 48.0])
    apart = made["models"]["demo"]["ahead"]["ours - rival"]
    in_a_cell = bench("rivals.table").in_a_cell
    assert in_a_cell(apart) == "+2.3"
    unsure = {"7": {**apart["8"], "low": -0.1}, "10": {**apart["8"], "low": None}}
    assert in_a_cell(unsure | apart) == "+2.3? / +2.3 / +2.3?"
    assert in_a_cell({}) == "-"
