"""The forcing bench prints no number when its gate is red."""

import pytest


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("counted_flops", lambda kept: lambda *given: 2 * kept(*given), "the count is wrong"),
        ("Unpatched", lambda kept: lambda causal=False: kept(), "block-causal differs"),
        ("MASK_TOLERANCE", lambda kept: 1.0, "gate is blind"),
    ],
)
def test_a_red_gate_ends_the_bench(bench, monkeypatch, capsys, name, wrong, words):
    run = bench("forcing.run")
    monkeypatch.setattr(run, name, wrong(getattr(run, name)))
    with pytest.raises(SystemExit, match=words):
        run.gate(run.random_model(64, 1), 4, 4)
    assert capsys.readouterr().out == ""
