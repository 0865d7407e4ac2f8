"""Tokens computed in shares: how many, when, and which of them."""

import dataclasses

import torch
from motioncache_pack import kernels as ops
from motioncache_pack.motioncache_core.policy.chunk_decision import shared_rows
from motioncache_pack.tests.core.runs import decide_at_once as decide
from motioncache_pack.tests.policy.chunks import PLAIN, rows, started

SHARES = dataclasses.replace(PLAIN, update_share=0.5, reuse_threshold=0.5)


def test_a_share_is_computed_each_time_the_share_of_the_threshold_is_reached():
    state = started(SHARES, [[1.0, 0.5, 0.75, 0.25]])
    seen = [rows(decide(SHARES, state, 0.125, ops), 4) for _ in range(8)]
    # accumulated in eighths: 2 1 1.5 .5, then 2 2 1.5 1, then 2 1 3 1.5, then 2 2 1.5 2
    assert seen == [[], [0, 2], [], [0, 1], [], [0, 2], [], [0, 1]]


def test_a_token_that_waited_too_long_goes_before_the_most_due():
    settings = dataclasses.replace(SHARES, max_stale_steps=4)
    state = started(settings, [[1.0, 1.0, 0.75, 0.0]])
    seen = [rows(decide(settings, state, 0.25, ops), 4) for _ in range(5)]
    assert [3 in r for r in seen] == [False, False, False, False, True]


def test_without_change_a_share_is_computed_after_its_share_of_the_longest_wait():
    settings = dataclasses.replace(SHARES, max_stale_steps=4)
    state = started(settings, [[1.0, 1.0, 0.75, 0.0]])
    seen = [decide(settings, state, 0.0, ops).kind for _ in range(6)]
    assert seen == ["reuse", "reuse", "partial"] * 2


def test_random_shares_are_as_large_at_other_places():
    settings = dataclasses.replace(SHARES, policy="random")
    weights = torch.rand(2, 32, generator=torch.Generator().manual_seed(1)).tolist()
    mine, other = started(SHARES, weights), started(settings, weights)
    for _ in range(6):
        a, b = decide(SHARES, mine, 0.125, ops), decide(settings, other, 0.125, ops)
        assert (a.kind, a.active) == (b.kind, b.active)
        if a.due is not None:
            assert int(b.due.sum()) == b.active
            assert not torch.equal(a.due, b.due)


def test_a_share_is_a_round_number_of_rows():
    settings = dataclasses.replace(SHARES, update_share=0.3)
    assert [shared_rows(settings, n) for n in (4096, 576, 40, 3)] == [1280, 176, 12, 1]
    assert shared_rows(dataclasses.replace(SHARES, update_share=0.01), 4096) == 128
