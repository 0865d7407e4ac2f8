"""The MAGI-1 bench prints no number when its gate is red."""

import pytest


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("PUBLISHED_PFLOP", lambda kept: 120.0, "the count is wrong"),
        ("FULL", lambda kept: 2 * kept, "the count is wrong"),
        (
            "PhaseRules",
            lambda kept: lambda a, b: kept(1.1 * a, b),
            "decides otherwise than was recorded",
        ),
    ],
)
def test_a_red_gate_ends_the_bench(bench, monkeypatch, capsys, name, wrong, words):
    run = bench("magi1.run")
    monkeypatch.setattr(run, name, wrong(getattr(run, name)))
    with pytest.raises(SystemExit, match=words):
        run.gate()
    assert capsys.readouterr().out == ""
