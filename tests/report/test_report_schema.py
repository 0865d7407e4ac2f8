"""The JSON report is what `report.schema.json` says it is."""

import json
import math
from dataclasses import replace

import jsonschema
import pytest
import torch
from motioncache_pack.motioncache_core.report.report_json import SCHEMA, as_json
from motioncache_pack.motioncache_core.report.trace import Trace
from motioncache_pack.motioncache_core.sampling.run_facts import RunFacts
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.runs import Run, Steady
from motioncache_pack.tests.core.small_wan import TEXT_DIM, TEXT_TOKENS, small_wan
from motioncache_pack.tests.engine.test_answer_session import Host, Model


@pytest.fixture(scope="module")
def schema(root):
    return json.loads((root / "motioncache_core/report/report.schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def check(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema).validate


def report(apart=False, **settings):
    """The report of a short run of a small model, parsed."""
    chosen = {"warmup_steps": 2, "uniform_updates": 1, "reuse_threshold": 0.1, **settings}
    run = Run(small_wan(), MotionCacheSettings(**chosen), profile=Steady(0.06))
    rng = torch.Generator().manual_seed(3)
    for step in range(8):
        x = torch.randn(2, 16, 3, 4, 6, generator=rng)
        text = torch.randn(2, TEXT_TOKENS, TEXT_DIM, generator=rng)
        names = ("u", "c")
        for rows in (slice(0, 1), slice(1, 2)) if apart else (slice(0, 2),):
            run.call(x[rows], 1000 - 90 * step, text[rows], names[rows])
    run.session.close()
    return json.loads(as_json(run.trace))


@pytest.mark.parametrize(
    "how",
    [{}, {"apart": True, "cfg_mask": "separate"}, {"policy": "chunk"}],
    ids=str,
)
def test_the_report_of_a_run_is_valid(check, how):
    found = report(**how)
    check(found)
    totals = found["totals"]
    assert totals["evaluations"] == totals["dense"] + totals["partial"] + totals["reuse"]


def test_reports_of_runs_without_an_evaluation_are_valid(check):
    check(json.loads(as_json(Trace({}))))
    declined = Run(small_wan(), **{"sigmas": RunFacts([1.0, 0.5, 0.0]).sigmas})
    declined.call(torch.randn(1, 16, 3, 4, 4), 900, torch.randn(1, TEXT_TOKENS, TEXT_DIM))
    declined.session.close()
    found = json.loads(as_json(declined.trace))
    check(found)
    assert found["totals"]["declined_calls"] == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: r.update(schema=SCHEMA + 1),
        lambda r: r.pop("reason"),
        lambda r: r["totals"].update(compute_share=1.5),
        lambda r: r["totals"].update(new=1),
        lambda r: r["evaluations"][0].update(kind="skipped"),
        lambda r: r["evaluations"][0]["chunks"][0].pop("active"),
        lambda r: r["evaluations"][0]["calls"][0].update(seconds=None),
    ],
)
def test_a_report_that_differs_is_refused(check, spoil):
    found = report()
    spoil(found)
    with pytest.raises(jsonschema.ValidationError):
        check(found)


def test_every_field_is_described(schema):
    def fields(part):
        for name, said in part.get("properties", {}).items():
            yield name, said
            yield from fields(said)
            yield from fields(said.get("items", {}))

    found = list(fields(schema))
    assert len(found) > 40
    assert [name for name, said in found if not said.get("description")] == []
    assert schema["properties"]["schema"]["const"] == SCHEMA


@pytest.mark.parametrize("level", [math.nan, math.inf])
def test_what_is_no_number_is_null_in_the_report(check, level):
    """Bare NaN is no JSON, and a page that parses it shows nothing."""
    host = Host()
    host.sample(Model())
    host.trace.evaluations[1].sigma = level
    other = host.trace.evaluations[2]
    other.chunks = (replace(other.chunks[0], distance=level),)

    def refuse(word):
        pytest.fail(f"{word} is no JSON")

    found = json.loads(as_json(host.trace), parse_constant=refuse)
    check(found)
    assert found["evaluations"][1]["sigma"] is None
    assert found["evaluations"][2]["chunks"][0]["distance"] is None
    known = host.trace.evaluations[3].sigma
    assert found["evaluations"][3]["sigma"] == pytest.approx(known, abs=1e-4)
