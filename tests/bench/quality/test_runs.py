"""The quality bench: that it resumes, that its gate can be red, and its random control."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core import MotionCacheSettings
from motioncache_pack.tests.bench.quality import metrics

# resuming


def clip_of(cases, **changes):
    """A case that samples in no time: latents are made of seed and settings."""

    def latents(settings=None):
        rng = torch.Generator().manual_seed(7)
        base = torch.rand(4, 12, 12, 3, generator=rng)
        reused = settings is not None and settings.warmup_steps < 100
        return base + (settings.reuse_threshold * 0.1 if reused else 0)

    class Trace:
        def calls(self):
            return []

    fields = {
        "mode": cases.ORDINARY, "name": "toy", "seed": 3, "facts": {}, "unit": 0.04,
        "uncached": latents, "cached": lambda settings, ops: (latents(settings), Trace()),
        "decode": lambda x: x, "rendered": latents(), "inputs": None,
    }  # fmt: skip
    return cases.Case(**{**fields, **changes})


@pytest.fixture
def toy(bench, monkeypatch, tmp_path):
    """The runner on a toy clip, in this process; counts the runs that are made."""
    runs, cases = bench("quality.runs"), bench("quality.cases")
    clip, made = clip_of(cases), []
    monkeypatch.setattr(runs, "case", lambda mode, seed: clip)
    monkeypatch.setattr(runs, "compute_share", lambda trace: 1.0)
    monkeypatch.setattr(runs, "flops_share", lambda trace: 1.0)
    run = runs.Runner.run

    def counted(self, job):
        made.append(job)
        return run(self, job)

    monkeypatch.setattr(runs.Runner, "run", counted)
    grid = bench("quality.policies").grid(clip, True, False)
    return runs, clip, grid, tmp_path / "runs.jsonl", made


def make(runs, clip, grid, path):
    for work in runs.outstanding([(clip, grid)], runs.Store(path)):
        runs.run_clip(work)
    return runs.Store(path)


def test_a_stopped_bench_goes_on(toy):
    runs, clip, grid, path, made = toy
    wanted = {job for sweep in grid.values() for job in sweep}
    store = make(runs, clip, grid, path)
    lines = path.read_text("utf-8").splitlines()
    assert len(made) == len(wanted) == len(lines) > 10
    # stopped while it wrote its sixth run
    path.write_text("\n".join(lines[:5]) + "\n" + lines[5][:40], "utf-8")
    made.clear()
    again = make(runs, clip, grid, path)
    assert len(made) == len(lines) - 5
    assert again.records.keys() == store.records.keys()
    assert all(json.loads(line) for i, line in enumerate(path.read_text().splitlines()) if i != 5)


def test_another_run_has_another_key(bench):
    cases, policies = bench("quality.cases"), bench("quality.policies")
    clip, job = clip_of(cases), policies.Job("cached", MotionCacheSettings(), 0.0)
    keys = [
        job.key(clip, "a"),
        job.key(clip, "b"),
        replace(job, settings=MotionCacheSettings(agreement=0.3)).key(clip, "a"),
        replace(job, kind="random").key(clip, "a"),
        *(
            job.key(clip_of(cases, **{change: value}), "a")
            for change, value in {"seed": 4, "mode": cases.FORCING, "facts": {"steps": 3}}.items()
        ),
    ]
    assert len(set(keys)) == len(keys) and replace(job).key(clip, "a") == keys[0]


def test_a_red_gate_ends_the_bench_without_a_number(toy, bench, monkeypatch, capsys):
    runs, clip, grid, path, _ = toy
    store, args = make(runs, clip, grid, path), argparse.Namespace(out=path.parent, seeds=1)
    bench_ = bench("quality.bench")
    monkeypatch.setattr(bench_, "case", lambda mode, seed: clip)
    _, _, checked = bench_.make(args, [clip.mode], lambda clip: grid)
    assert checked == {"exact": 1, "controls": 3, "host": 0}
    control = next(sweep for sweep in grid.values() if sweep[0].kind == "random")
    for (job, *_), wrong, words in (
        (grid["none"], {"exact": False}, "not the uncached"),
        (grid["none"], {"compute_share": 0.9}, "not the uncached"),
        (control, {"computed": [1, 2]}, "counts are not motion's"),
    ):
        record = store.records[job.key(clip, runs.fingerprint())]
        store.add(record | wrong)
        with pytest.raises(SystemExit, match=f"the gate is red:\n.*{words}"):
            bench_.make(args, [clip.mode], lambda clip: grid)
        store.add(record)
    assert capsys.readouterr().out == ""


# the random control


def test_the_control_has_motions_counts_at_other_places(bench):
    control = bench("quality.control")
    frames, spatial = 3, 21
    recorder = control.Recorder()
    given = []
    for i in range(6):
        accumulator = torch.rand(frames * spatial, generator=torch.Generator().manual_seed(i))
        args = (accumulator, torch.zeros(frames * spatial, dtype=torch.int32), torch.zeros(1), None)
        kwargs = {"frames": frames, "threshold": 0.6, "agreement": 0.5, "min_update_ratio": 0.0,
                  "max_stale_steps": 0}  # fmt: skip
        due, count = recorder.accumulate_due(*args, **kwargs)
        if i % 2:
            count = (count + 4).clamp_(max=frames * spatial).to(torch.int32)
            due = recorder.select_top(accumulator, count)
        given.append(due)
    player = control.Player(recorder.tape, seed=1)
    places = set()
    for due in given:
        drawn, count = player.accumulate_due(torch.zeros(frames * spatial), frames=frames)
        assert int(count) == int(drawn.sum()) == int(due.sum())
        before, after = due.view(frames, -1), drawn.view(frames, -1)
        columns = sorted(tuple(c) for c in before.T.tolist())
        assert sorted(tuple(c) for c in after.T.tolist()) == columns
        places.add(torch.equal(before, after))
        # what rounds a decision up changes nothing of what is on the tape
        score = torch.rand(frames * spatial).masked_fill(drawn.bool(), float("inf"))
        assert torch.equal(player.select_top(score, count), drawn)
    assert places == {False}
    with pytest.raises(ValueError, match="not of"):
        control.Player(recorder.tape, 1).accumulate_due(torch.zeros(8), frames=frames)


def test_the_control_draws_a_share_of_the_tokens_each_for_itself(bench):
    control = bench("quality.control")
    recorder = control.Recorder()
    count = torch.tensor([20], dtype=torch.int32)
    scores = [torch.rand(63, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    given = [recorder.select_top(score, count) for score in scores]
    assert len(recorder.tape) == 4
    player = control.Player(recorder.tape, seed=1)
    drawn = [player.select_top(score, count) for score in scores]
    assert [int(d.sum()) for d in drawn] == [20] * 4
    assert not any(torch.equal(a, b) for a, b in zip(given, drawn, strict=True))


# real clips, short


@pytest.mark.parametrize("mode", ["ordinary", "forcing", "forcing, bidirectional"])
def test_a_real_clip_passes_the_gate(bench, monkeypatch, tmp_path, mode):
    cases, policies, runs = (bench(f"quality.{n}") for n in ("cases", "policies", "runs"))
    monkeypatch.setenv(cases.STEPS, "12")
    monkeypatch.setattr(cases, "FRAMES", {"ordinary": 3, "forcing": 4, "forcing, bidirectional": 4})
    clip = cases.case(mode, 2)
    ours = replace(policies.OURS, warmup_steps=2, compute_budget=0.6)
    grid = {
        "none": [policies.without(mode, ours)],
        "motion": [policies.Job("cached", ours)],
        "random": [policies.Job("random", ours)],
        "whole": [policies.Job("cached", replace(ours, policy=policies.whole(mode)))],
    }
    store = make(runs, clip, grid, tmp_path / "runs.jsonl")
    red, checked = runs.gate([(clip, grid)], store)
    assert not red and checked == {"exact": 1, "controls": 1, "host": 0}
    none, motion, random, _ = (
        store.records[sweep[0].key(clip, runs.fingerprint())] for sweep in grid.values()
    )
    assert none["psnr"] == metrics.TOP_DB and 0.2 < motion["compute_share"] < 0.9
    assert random["psnr"] != motion["psnr"] and random["computed"] == motion["computed"]
    figures = bench("quality.analysis").analysis(
        {name: [[store.records[j.key(clip, runs.fingerprint())] for j in sweep]]
         for name, sweep in grid.items() if name != "none"},
        [("motion", "random")],
    )  # fmt: skip
    assert "| motion over random |" in bench("quality.report").markdown(mode, figures)


def test_a_run_that_reused_nothing_bends_no_curve(bench):
    analysis = bench("quality.analysis")
    names = ("ssim", "temporal_psnr", "psnr_moving", "psnr_static", "region_gap", "seconds",
             "uncached_seconds", "cpu_seconds", "uncached_cpu_seconds")  # fmt: skip
    sweep = [
        {**dict.fromkeys(names, 1.0), "compute_share": x, "flops_share": x, "psnr": y}
        for x, y in ((0.2, 30.0), (0.4, 40.0), (1.0, metrics.TOP_DB))
    ]
    assert analysis.at_equal_compute([sweep], "psnr", 0.3) == [pytest.approx(35.0)]
    assert analysis.at_equal_compute([sweep], "psnr", 0.5) == [None]
    found = analysis.policy_figures([sweep])
    assert [run["psnr"] and run["psnr"]["mean"] for run in found["sweep"]] == [30, 40, None]
    assert found["at"]["compute_share"]["0.50"]["psnr"] is None
    none = analysis.policy_figures([sweep[2:]])
    assert none["distance_to_a_run"]["0.50"] == 1
    assert found["distance_to_a_run"] == {"0.30": 0.1, "0.40": 0.0, "0.50": 0.1}


def test_equal_time_is_another_place_of_the_curve_than_equal_work(bench):
    analysis = bench("quality.analysis")
    sweep = [
        {"compute_share": x, "flops_share": x, "cpu_seconds": 3 * (x + 0.1),
         "uncached_cpu_seconds": 3.0, "psnr": 100 * x}
        for x in (0.2, 0.3, 0.5)
    ]  # fmt: skip
    by_time = analysis.at_equal_compute([sweep], "psnr", 0.4, analysis.CPU_TIME)
    assert by_time == [pytest.approx(30.0)]
    assert analysis.at_equal_compute([sweep], "psnr", 0.4) == [pytest.approx(40.0)]


@pytest.mark.parametrize("base", ["ours", "paper"])
@pytest.mark.parametrize("quick", [False, True])
def test_one_setting_at_a_time(bench, base, quick):
    ablations = bench("quality.ablations")
    grid = ablations.grid(clip_of(bench("quality.cases")), quick, base)
    swept = "compute_budget" if base == "ours" else "reuse_threshold"
    others = ablations.others("ordinary", base)
    beyond = {name for more in others.values() for name in more}
    assert beyond.isdisjoint(grid) if quick else beyond < set(grid)
    for name in grid.keys() - beyond:
        sweep = grid[name]
        given = [job.settings.as_dict() for job in sweep]
        own = ablations.BASES[base].as_dict()
        if name not in ("none", "base"):
            own[name.split()[0]] = given[0][name.split()[0]]
            assert own != ablations.BASES[base].as_dict()
        if name != "none":
            assert all({**own, swept: settings[swept]} == settings for settings in given)
            assert len({settings[swept] for settings in given}) == len(given) > 2
    assert ("motion_source features" if base == "ours" else "uniform_updates 0") in grid


def test_the_base_shares_its_runs_with_the_quality_bench(bench):
    policies = bench("quality.policies")
    clip = clip_of(bench("quality.cases"))
    theirs = policies.grid(clip, False, False)[policies.MOTION]
    assert set(bench("quality.ablations").grid(clip, False)["base"]) < set(theirs)


def test_the_model_that_is_measured_can_be_chosen(bench, monkeypatch):
    cases = bench("quality.cases")
    assert cases.files() == cases.MODELS["tracks"]
    hashes = set()
    for name, (weights, profile) in cases.MODELS.items():
        monkeypatch.setenv(cases.MODEL, name)
        assert cases.files() == (weights, profile)
        hashes.add(cases.model_hash())
    assert len(hashes) == 3
