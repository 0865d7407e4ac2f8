"""What a preset becomes in a run of so many steps."""

import dataclasses
import json

import pytest
from motioncache_pack.motioncache_core import PRESETS, settings_for_run
from motioncache_pack.motioncache_core.sampling.run_settings import FEW_STEPS, TUNED_STEPS


@pytest.mark.parametrize("steps", [0, 1, FEW_STEPS, TUNED_STEPS, 30, 1000])
def test_no_short_run_has_the_preset_as_it_is_written(steps):
    for name, preset in PRESETS.items():
        chosen = settings_for_run(name, steps)
        assert chosen.settings == preset and chosen.preset == name
        assert bool(chosen.why) == (name == "paper")


@pytest.mark.parametrize(
    ("name", "steps", "warm_up"),
    [("motion", 9, 1), ("motion", 12, 1), ("motion", 13, 2), ("motion", 20, 2), ("balanced", 9, 1)],
)
def test_a_short_run_warms_up_for_the_same_share(name, steps, warm_up):
    chosen = settings_for_run(name, steps)
    assert chosen.settings == dataclasses.replace(PRESETS[name], warmup_steps=warm_up)
    assert chosen.preset == name
    if warm_up == PRESETS[name].warmup_steps:
        assert chosen.why == ()
    else:
        (why,) = chosen.why
        assert f"warmup_steps {warm_up} instead of {PRESETS[name].warmup_steps}" in why
        assert f"{steps} steps as of the {TUNED_STEPS} that" in why


def test_the_published_preset_stays_as_it_is():
    for steps in (9, 16, 50):
        chosen = settings_for_run("paper", steps)
        assert chosen.settings == PRESETS["paper"]
        assert "as published" in chosen.why[0]


def test_the_measured_runs_are_those_of_this_rule(root):
    data = json.loads((root / "tests/bench/results/short_runs.json").read_text("utf-8"))
    pairs = {}
    for row in data["rows"]:
        # what was called quality, balanced and fast then warmed up as motion does
        resolved = settings_for_run("motion", row["steps"]).settings
        wanted = PRESETS["motion"] if row["settings"] == "written" else resolved
        assert row["warmup_steps"] == wanted.warmup_steps
        pairs.setdefault((row["preset"], row["steps"]), {})[row["settings"]] = row
    # at 10, 11 and 12 steps
    assert len(pairs) == 9
    for pair in pairs.values():
        # a budget is kept whatever warm-up takes of it
        shares = [pair[k]["compute_share"] for k in ("resolved", "written")]
        assert shares[0] == pytest.approx(shares[1], abs=0.11)
