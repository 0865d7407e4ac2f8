"""Chunks computed in full, in part or not at all, under both kinds of attention."""

import random

import pytest
import torch
from motioncache_pack.motioncache_core.models.wan import WAN
from motioncache_pack.motioncache_core.sampling.options import ForcingOptions
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.causal_oracle import WORKING, Swapped
from motioncache_pack.tests.core.causal_runs import (
    NETWORK,
    Film,
    ForcingRun,
    apart,
    poison,
    sampled,
)
from motioncache_pack.tests.core.oracle import WholeClip, random_rows
from motioncache_pack.tests.core.runs import dictate
from motioncache_pack.tests.core.small_wan import small_wan
from motioncache_pack.tests.support.assert_close import assert_close, assert_same

SETTINGS = MotionCacheSettings(dense_last=False, max_stale_steps=0)
FILMS = {
    "delay 1": Film((5, 4, 6), steps=5, options=ForcingOptions(2, 1)),
    "delay 3, odd sides": Film((5, 5, 3), steps=5, options=ForcingOptions(2, 3)),
    "all at once": Film((7, 4, 4), steps=5, options=ForcingOptions(3, 0)),
    "one after the other": Film((5, 4, 4), steps=5, options=ForcingOptions(2, 9)),
    "two samples": Film((5, 4, 4), 2, steps=5, options=ForcingOptions(2, 2)),
    "prefix in a chunk": Film(
        (7, 4, 4), steps=5, prefix=3, options=ForcingOptions(2, 2, condition_noise=0.05)
    ),
    "split calls": Film((5, 4, 4), steps=5, grouping=apart, options=ForcingOptions(2, 2)),
    "rolling": Film((7, 4, 4), steps=5, options=ForcingOptions(2, 3, window_frames=4)),
}


def plan_for(film, seed, scopes=1):
    """Random decisions: what `dictate` takes, and the rows they compute in each iteration."""
    rng, entries, rows = random.Random(seed), [], []
    for it in film.schedule:
        for _ in range(scopes):
            computed = []
            for span, step in zip(it.chunk_frames(), it.steps, strict=True):
                first, size = span.start * film.tokens, (span.stop - span.start) * film.tokens
                kind = "dense" if step.role == "clean" else ""
                if step.role == "active":
                    kinds = ("dense", "reuse", "partial", "partial")
                    kind = "dense" if step.step == 0 else rng.choice(kinds)
                    own = random_rows(size, rng.randint(1, size - 1), rng.randint(0, 10**6))
                    entries.append(own if kind == "partial" else kind)
                if kind == "partial":
                    computed += [first + r for r in own]
                elif kind == "dense":
                    computed += range(first, first + size)
            rows.append(computed)
    return entries, rows


def checked(film, run, wanted):
    """Sample with the engine and compare every answer with `wanted(iteration, call)`."""

    def answer(*call):
        got, index = run.answer(*call), call[-1].iteration.index
        assert_close(f"iteration {index}, {call[3]}", wanted(index, *call), got)
        return got

    return film.sample(answer)


@pytest.mark.parametrize(("film", "heads"), [(name, 1 + i % 2) for i, name in enumerate(FILMS)])
def test_active_rows_see_stored_keys_up_to_their_chunks_end(monkeypatch, film, heads):
    poison(monkeypatch)
    film, network = FILMS[film], small_wan(heads, 2)
    entries, rows = plan_for(film, seed=heads)
    dictate(monkeypatch, *entries)
    run, oracles = ForcingRun(network, SETTINGS), {}

    def wanted(index, x, t, context, names, forcing):
        oracle = oracles.setdefault(names, Swapped(network))
        return oracle.call(x, t, context, forcing, rows[index])

    checked(film, run, wanted)
    calls = len(film.grouping(0))
    assert [c.computed for c in run.trace.calls()][::calls] == [len(r) for r in rows]
    assert {"partial", "reuse"} <= {c.kind for e in run.trace.evaluations for c in e.chunks}


@pytest.mark.parametrize("grouping", ["one batch", "apart"])
def test_each_branch_may_decide_for_itself(monkeypatch, grouping):
    poison(monkeypatch)
    film = Film((5, 4, 4), steps=6, prefix=1, options=ForcingOptions(2, 2))
    if grouping == "apart":
        film.grouping = apart
    entries, rows = plan_for(film, seed=3, scopes=2)
    dictate(monkeypatch, *entries)
    run = ForcingRun(NETWORK, MotionCacheSettings(cfg_mask="separate"))
    oracles = {"uncond": Swapped(NETWORK), "cond": Swapped(NETWORK)}

    def wanted(index, x, t, context, names, forcing):
        parts = []
        for i, name in enumerate(names):
            own = rows[2 * index + ["uncond", "cond"].index(name)]
            part = slice(i, i + 1)
            parts.append(oracles[name].call(x[part], t[part], context[part], forcing, own))
        return torch.cat(parts)

    checked(film, run, wanted)
    if grouping == "one batch":
        pairs = zip(rows[::2], rows[1::2], strict=True)
        wanted_rows = [max(len(a), len(b)) for a, b in pairs]
        assert [c.computed for c in run.trace.calls()] == wanted_rows


BIDIRECTIONAL = {
    "delay 2": Film((5, 4, 6), steps=5, options=ForcingOptions(2, 2, attention="bidirectional")),
    "all at once": Film(
        (5, 5, 3), steps=5, options=ForcingOptions(2, 0, attention="bidirectional")
    ),
    "prefix": Film(
        (7, 4, 4), 2, steps=5, prefix=3, options=ForcingOptions(2, 3, attention="bidirectional")
    ),
}


@pytest.mark.parametrize("film", BIDIRECTIONAL)
def test_bidirectional_chunks_are_computed_once_before_and_once_after(monkeypatch, film):
    poison(monkeypatch)
    film = BIDIRECTIONAL[film]
    entries, rows = plan_for(film, seed=5)
    for span, step in zip(film.schedule[0].chunk_frames(), film.schedule[0].steps, strict=True):
        if step.role == "unstarted":
            rows[0] += range(span.start * film.tokens, span.stop * film.tokens)
    dictate(monkeypatch, *entries)
    run, oracle = ForcingRun(NETWORK, SETTINGS), WholeClip(NETWORK)
    checked(film, run, lambda index, x, t, context, *_: oracle.call(x, t, context, rows[index]))
    phases = [
        [(c.kind, c.phase) for c in e.chunks if c.phase != "motion"] for e in run.trace.evaluations
    ]
    assert {phase for first in phases[:1] for phase in first} <= {
        ("dense", "unstarted"),
        ("dense", "clean"),
    }
    for later in phases[1:]:
        assert {p for p in later if p[1] != "clean"} <= {("reuse", "unstarted"), ("reuse", "done")}
    assert [c.computed for c in run.trace.calls()] == [len(r) for r in rows]


@pytest.mark.parametrize(("window", "overlap", "prefix"), [(0, 0, 3), (4, 0, 3), (4, 2, 0)])
def test_bidirectional_without_reuse_is_the_model_itself(window, overlap, prefix):
    options = ForcingOptions(
        2, 3, "unipc", "bidirectional", 0.05, window_frames=window, overlap_frames=overlap
    )
    film = Film((7, 5, 6), prefix=prefix, options=options)

    def plain(x, t, context, names, forcing):
        return NETWORK(x, t, context, transformer_options=WAN.shifted({}, forcing.first_position))

    got, trace = sampled(film)
    assert_same("latents", film.sample(plain), got)
    assert len(trace.declined_calls) == len(film.schedule)


def test_the_films_meet_every_role():
    roles = {s.role for film in FILMS.values() for it in film.schedule for s in it.steps}
    assert roles == {"unstarted", "done", *WORKING}
