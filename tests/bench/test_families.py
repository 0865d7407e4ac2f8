"""The bench of the families: its gate, its checks on a toy, and what is told of them."""

import copy
from types import SimpleNamespace

import pytest
import torch
from motioncache_pack.motioncache_core.report.trace import Trace
from motioncache_pack.tests.models import test_hidden_blocks as blocks
from motioncache_pack.tests.support.hidden import Oracle
from motioncache_pack.tests.support.toy_hidden import Grid


@pytest.fixture
def families(bench):
    return bench("families")


@pytest.fixture
def checks(bench):
    return bench("families_checks")


CELL = {"share": 0.375, "kv_bytes": 2048, "answer_bytes": 3072, "reason": ""}
ROW = {
    "off": True,
    "presets": {"balanced": CELL | {"share": 0.4}, "motion": CELL},
    "checks": {"all rows": 0.0, "subset": 6.2e-7, "changed": 1e-4},
}


def told(bench, row):
    data = {
        "families": {"toy": row},
        "comfyui": "9",
        "steps": 3,
        "tolerance": 1e-5,
        "environment": {"device": "cpu", "torch": "2"},
    }
    return bench("families_table").families_table(data)


def test_a_row_has_errors_shares_and_bytes(bench):
    (row,) = [line for line in told(bench, ROW).splitlines() if line.startswith("| toy")]
    assert row == "| toy | same bits | 0 | 6e-07 | **1e-04** | 40% | 38% | 2 KiB | 3 KiB |"


def test_what_is_not_a_number_or_was_declined_stands_out(bench):
    row = copy.deepcopy(ROW)
    row["checks"]["subset"] = float("nan")
    row["presets"]["motion"]["reason"] = "unknown"
    assert "| **nan** | **1e-04** | 40% | **declined** |" in told(bench, row)


def test_a_red_gate_makes_no_table(bench):
    with pytest.raises(SystemExit, match="toy is not bit-identical"):
        told(bench, ROW | {"off": False})


def test_a_family_has_one_row_for_each_kind_of_call(families):
    names = ["a", "a, two clips", "a, masks", "b, other size", "b, texts apart"]
    assert families.once_each(names) == ["a", "a, masks"]


def patched(changes):
    """A stand-in for the node: a model is what is added to the latents."""
    return lambda model, preset: (
        model + changes.get(preset, 0.0),
        SimpleNamespace(latest=Trace({})),
    )


def test_no_numbers_where_off_is_not_off(families):
    latents, errors = torch.randn(2, 5), {"subset": 0.0}
    subject = families.Subject(0.0, lambda model, steps: latents + model, lambda: errors)
    found = families.measure(subject, patched({"motion": 0.5}))
    assert found["off"] is True and found["checks"] == errors
    assert found["presets"]["motion"]["error"] > 0 == found["presets"]["balanced"]["error"]
    with pytest.raises(families.RedGateError, match="preset off"):
        families.measure(subject, patched({"off": 1e-6}))


def test_no_numbers_of_latents_that_show_nothing_or_a_model_left_changed(families):
    for nothing in (torch.zeros(2, 5), torch.full((2, 5), torch.nan)):
        subject = families.Subject(0.0, lambda model, steps, x=nothing: x, dict)
        with pytest.raises(families.RedGateError, match="nothing that could be compared"):
            families.measure(subject, patched({}))
    latents = torch.randn(2, 5)
    subject = families.Subject(0.0, lambda model, steps: latents.clone(), lambda: latents.add_(1))
    with pytest.raises(families.RedGateError, match="not as it was"):
        families.measure(subject, patched({}))


@torch.no_grad()
def test_the_checks_measure_a_toy_and_see_what_is_wrong_with_it(checks):
    toy = blocks.toy(Grid)

    def measured(oracle, plain=blocks.plain):
        def run():
            return blocks.Run(toy)

        return checks.checks_of_calls(toy.tokens, run, oracle, toy.call, plain)

    found = measured(Oracle(toy))
    assert found.pop("moved") > 1e-3
    assert set(found) == {"all rows", "subset", "changed"} and max(found.values()) < 1e-5
    wrong = measured(Oracle(toy), lambda call: blocks.plain(call) * 1.01)
    assert min(wrong["all rows"], wrong["subset"]) > 1e-3 > wrong["changed"]
    same = SimpleNamespace(call=lambda call, rows: blocks.plain(call))
    with pytest.raises(checks.RedGateError, match="show nothing"):
        measured(same)


def test_errors_see_every_part_and_what_is_not_a_number(checks):
    x, y = torch.ones(3), torch.ones(2)
    assert checks.worst([x, y], [x, y + 0.25]) == pytest.approx(0.25)
    assert checks.worst([x, y], [x * torch.nan, y]) == float("inf")


def test_whole_calls_have_no_errors_to_tell(checks):
    checks.in_part(["dense", "partial"])
    for kinds in (["dense", "dense"], ["partial", "declined"]):
        with pytest.raises(checks.RedGateError, match=", ".join(kinds)):
            checks.in_part(kinds)
