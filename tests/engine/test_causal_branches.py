"""Conditioning branches of a block-causal run: late, away for a while, regrouped, repeated."""

from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core import ForcingOptions, MotionCacheSettings
from motioncache_pack.tests.core.causal_oracle import Masked
from motioncache_pack.tests.core.causal_runs import (
    BOTH,
    NETWORK,
    OFF,
    Film,
    ForcingRun,
    apart,
    poison,
    sampled,
)
from motioncache_pack.tests.core.kv_places import in_turn
from motioncache_pack.tests.support.assert_close import assert_close, assert_same

MOTION = MotionCacheSettings(warmup_steps=2, uniform_updates=1, reuse_threshold=0.1)

COND, UNCOND = ("cond",), ("uncond",)
ATTENTION = "block_causal", "bidirectional"
# the branches of each call, by iteration; a chunk starts in every third, and is cleaned after four
GROUPINGS = {
    "joins late": lambda i: [BOTH] if i >= 5 else [COND],
    "joins late, alone": lambda i: [COND, UNCOND] if i >= 5 else [COND],
    "leaves early": lambda i: [BOTH] if i < 5 else [COND],
    "regrouped": lambda i: [[BOTH], [UNCOND, COND], [BOTH[::-1]]][i % 3],
}
RETURNS = {
    "misses a step": lambda i: [COND] if i == 5 else [BOTH],
    "misses a clean pass": lambda i: [COND] if i == 4 else [BOTH],
    "misses a clean pass, alone": lambda i: [COND] if i == 4 else [UNCOND, COND],
    "misses a whole chunk": lambda i: [COND] if 3 <= i < 8 else [BOTH],
    "misses a whole chunk, alone": lambda i: [COND] if 3 <= i < 8 else [UNCOND, COND],
    "misses the window's move": lambda i: [COND] if 8 <= i < 15 else [UNCOND, COND],
    "comes and goes": lambda i: [UNCOND, COND] if i % 3 == 0 else [COND],
}


@pytest.mark.parametrize(
    "window, grouping, kept_in",
    in_turn((window, g) for window in (0, 6) for g in GROUPINGS),
    indirect=["kept_in"],
)
def test_branches_may_join_leave_and_regroup(monkeypatch, grouping, window, kept_in):
    poison(monkeypatch)
    options = ForcingOptions(2, 3, window_frames=window)
    film = Film((7, 4, 6), prefix=1, grouping=GROUPINGS[grouping], options=options)
    got, _ = sampled(film)
    assert_close("latents", film.sample(Masked(NETWORK).call), got)


@pytest.mark.parametrize("grouping, kept_in", in_turn(RETURNS), indirect=["kept_in"])
def test_a_branch_that_was_away_reads_nothing_stale(monkeypatch, grouping, kept_in):
    # a condition with a range of steps does that: noise is at its top whenever a chunk starts
    poison(monkeypatch)
    film = Film((7, 4, 6), grouping=RETURNS[grouping], options=ForcingOptions(2, 3))
    got, _ = sampled(film)
    assert_close("latents", film.sample(Masked(NETWORK).call), got)


@pytest.mark.parametrize(
    "grouping, attention, kept_in",
    in_turn((g, ATTENTION[i % 2]) for i, g in enumerate(["misses a step", *RETURNS])),
    indirect=["kept_in"],
)
def test_a_branch_that_was_away_reads_no_memory_without_a_value(
    monkeypatch, grouping, attention, kept_in
):
    poison(monkeypatch)
    options = ForcingOptions(2, 3, attention=attention, window_frames=6)
    film = Film((9, 4, 6), steps=9, grouping=RETURNS[grouping], options=options)
    got, trace = sampled(film, replace(MOTION, min_update_ratio=0.0))
    assert bool(torch.isfinite(got).all())
    assert trace.reason == ""


@pytest.mark.parametrize("settings, kept_in", in_turn([OFF, MOTION, OFF]), indirect=["kept_in"])
def test_another_number_of_samples_in_mid_run(monkeypatch, settings, kept_in):
    poison(monkeypatch)
    film = Film((6, 4, 6), steps=9, options=ForcingOptions(2, 4))
    run, oracle = ForcingRun(NETWORK, settings, sigmas=film.sigmas, profile=None), Masked(NETWORK)

    def more(x, t, context, names, forcing):
        n = (1, 2, 3, 1)[forcing.iteration.index // 4 % 4]
        batch = [given.repeat_interleave(n, 0) for given in (x, t, context)]
        answer = run.answer(*batch, names, forcing)[::n]
        if settings is OFF:
            spans = zip(forcing.iteration.chunk_frames(), forcing.iteration.steps, strict=True)
            wanted = oracle.call(x, t, context, names, forcing)
            for span, step in spans:
                if step.role == "active":
                    assert_close("chunk", wanted[:, :, span], answer[:, :, span])
        return answer

    assert bool(torch.isfinite(film.sample(more)).all())
    assert any(c.note for c in run.trace.calls())


@pytest.mark.parametrize("kv_keep, kept_in", in_turn([0, 1, 1]), indirect=["kept_in"])
def test_a_call_that_is_repeated_leaves_the_same_state(kv_keep, kept_in):
    # guidance nodes call a branch twice in a step
    film = Film((8, 4, 6), grouping=apart, options=ForcingOptions(2, 2, kv_keep=kv_keep))
    wanted, _ = sampled(film)
    run = ForcingRun(NETWORK, OFF, sigmas=film.sigmas)

    def twice(*call):
        first = run.answer(*call)
        again = run.answer(*call)
        if not kv_keep:
            assert_same("second answer", first, again)
        return first

    assert_same("latents", wanted, film.sample(twice))
