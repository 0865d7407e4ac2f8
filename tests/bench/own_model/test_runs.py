"""The runs of `run.py`: made once, kept, gone on with; no server is needed."""

import asyncio

import pytest
from motioncache_pack.tests.support.user_runs import (
    FACTS,
    FRAMES,
    FakeServer,
    figures_of,
    run,
    sweep,  # noqa: F401
    text_of,
)


def without_times(records):
    return {k: {n: v for n, v in r.items() if "seconds" not in n} for k, r in records.items()}


def test_every_run_is_made_once_after_a_warm_up(sweep):  # noqa: F811
    made, server = sweep(), FakeServer()
    clips = run(made, server)
    assert clips == list(made.plan.clips)
    each = ["none", "none", "quality", "fast"]
    # one discarded run without MotionCache, one with it
    assert server.made == [
        ("none", 0), ("none", 0), ("none", 0), ("quality", 0), ("quality", 0), ("fast", 0),
        *((name, 1) for name in each),
    ]  # fmt: skip
    again = FakeServer()
    assert run(sweep(), again) == [] and again.made == []
    assert len(made.said) == 8 and "quality: 5.0 s, 50% of the tokens" in made.said[2]


@pytest.mark.parametrize("stop", [1, 4, 9])
def test_a_stopped_sweep_goes_on(sweep, tmp_path, stop):  # noqa: F811
    first = sweep()
    with pytest.raises(asyncio.CancelledError):
        run(first, FakeServer(dies_at=stop))
    kept = dict(first.sweep.store.records)
    second, server = sweep(), FakeServer()
    assert second.sweep.store.records == kept
    assert len(second.sweep.missing()) == 8 - len(kept)
    run(second, server)
    # a warm-up for either kind that is left, and nothing that is there
    assert len(server.made) <= 8 - len(kept) + 2
    assert len(second.sweep.store.records) == 8
    (tmp_path / "out").rename(tmp_path / "stopped")
    whole = sweep()
    run(whole, FakeServer())
    assert without_times(second.sweep.store.records) == without_times(whole.sweep.store.records)


def test_uncached_frames_that_are_gone_are_made_again(sweep):  # noqa: F811
    made = sweep()
    run(made, FakeServer())
    job = made.plan.jobs[0]
    place = made.sweep.frames_of(made.plan.key(made.plan.clips[1], job))
    assert len(list(place.iterdir())) == FRAMES
    for file in place.iterdir():
        file.unlink()
    place.rmdir()
    assert [(clip.seed, j) for clip, j, _ in sweep().sweep.missing()] == [(1, job)]


def test_a_failure_is_kept_and_the_sweep_goes_on(sweep):  # noqa: F811
    made, server = sweep(("quality", "EasyCache", "fast"), 1), FakeServer(fails=["quality"])
    run(made, server)
    # after it both kinds are warmed up anew; a run that fails in its warm-up has failed
    assert [name for name, _ in server.made] == [
        "none", "none", "none", "quality", "EasyCache", "EasyCache", "fast", "fast",
    ]  # fmt: skip
    found = figures_of(made)
    assert found["policies"]["quality"]["failures"] == {"quality: out of memory": 1}
    assert found["policies"]["quality"]["psnr"] is None and found["policies"]["fast"]["psnr"]
    assert "quality failed in 1 clips: quality: out of memory" in text_of(made, found)
    again, server = sweep(("quality", "EasyCache", "fast"), 1), FakeServer()
    assert not again.sweep.missing()
    again.sweep.forget_errors()
    run(again, server)
    assert server.made == [("quality", 0)] * 2
    assert figures_of(again)["policies"]["quality"]["failures"] == {}


def test_nothing_is_compared_with_an_uncached_run_that_failed(sweep):  # noqa: F811
    made, server = sweep(seeds=1), FakeServer(fails=["none"])
    run(made, server)
    assert server.made == [("none", 0)]
    assert sum("left out" in line for line in made.said) == 3
    assert figures_of(made)["uncached_failures"] == ["none: out of memory"]


def test_runs_of_another_machine_are_not_mixed(sweep, bench):  # noqa: F811
    run(sweep(seeds=1), FakeServer())
    with pytest.raises(
        bench("own_model.workflow").WorkflowError, match="runs of device toy; this is"
    ):
        sweep(seeds=1, facts={**FACTS, "device": "another"})


def test_frames_of_another_size_are_an_error_of_the_run(sweep):  # noqa: F811
    made = sweep(("fast",), 1)
    server = FakeServer()
    kept = server.frames

    async def cut(images):
        files = await kept(images)
        return files if server.made[-1][0] == "none" else files[:-1]

    server.frames = cut
    run(made, server)
    (record,) = [r for r in made.sweep.store.records.values() if r["policy"] == "fast"]
    assert "6 frames" in record["error"] and "7 frames" in record["error"]
