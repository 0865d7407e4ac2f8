"""The study's rows: exact where nothing is left out, each with a hindsight of its own."""

from __future__ import annotations

import pytest
import torch
from motioncache_pack.motioncache_core.demo.sampler import flow_sigmas
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.motioncache_core.policy import answer_ledger
from motioncache_pack.motioncache_core.sampling.sampler_response import euler, shares

STEPS, KEYS = 9, ("stored", "foretold", "fresh", "exact")
SIGMAS = tuple(flow_sigmas(STEPS, 3.0))


@pytest.fixture
def tokens(bench):
    names = ("clips", "memory", "network", "plans", "sample")
    return {name: bench(f"tokens.{name}") for name in names}


@pytest.fixture
def clip(tokens):
    model = DemoWan(dim=128, ffn_dim=64, num_layers=3, text_dim=32)
    text = torch.randn(2, 1, 3, 32)
    noise = torch.randn(1, 16, 2, 8, 8)
    return tokens["clips"].TokenClip(model, *text, noise, None, SIGMAS, 2.0, lambda x: x)


@pytest.mark.parametrize("keys", KEYS)
@torch.no_grad()
def test_parts_of_all_rows_are_whole_evaluations(tokens, clip, keys):
    sample = tokens["sample"].sample
    plan = (1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0)
    whole = sample(clip, plan, None)
    almost = tuple(0.9999 if 0 < k < STEPS - 2 and p else p for k, p in enumerate(plan))
    parts = sample(clip, almost, lambda seen: torch.arange(32.0), keys)
    torch.testing.assert_close(parts.latents, whole.latents)
    assert parts.work == pytest.approx(whole.work)


@pytest.mark.parametrize("keys", KEYS)
@torch.no_grad()
def test_rows_of_an_input_that_has_not_changed_are_those_of_a_whole_evaluation(tokens, clip, keys):
    network = tokens["network"].RowNetwork(clip, keys, cut=1)
    rows = torch.tensor([3, 4, 17, 30])
    whole, _ = network(clip.noise, 4, None)
    part, computed = network(clip.noise, 4, lambda: rows)
    assert computed is rows
    torch.testing.assert_close(part[:, rows], whole[:, rows])
    # a block of three on all rows, and of the other two what is not left out
    of_key = tokens["network"].key_share(clip.model.blocks[0]) * (keys == "fresh")
    assert network.work == pytest.approx(1 + (1 + 2 * (1 / 8 + of_key * 7 / 8)) / 3)


def test_each_row_is_told_what_a_ledger_of_its_own_says(tokens, monkeypatch):
    # what is too much to be paid at once is let go here, and paid later there
    memory, largest = tokens["memory"], 1e9
    monkeypatch.setattr(answer_ledger, "_LARGEST", largest)
    rows, rng = 40, torch.Generator().manual_seed(3)
    truth = torch.randn(STEPS, 1, rows, 2, dtype=torch.float64, generator=rng)
    computed = torch.rand(STEPS, rows, generator=rng) < 0.5
    computed[0] = computed[-1] = True
    response = euler(SIGMAS)
    ledgers = [
        answer_ledger.AnswerLedger(response.places, 1.0, shares(response.response))
        for _ in range(rows)
    ]
    slots = torch.zeros(rows, 4, 2, dtype=torch.float64)
    known, later = memory.RowMemory(), memory.Hindsight(SIGMAS, largest)
    for step in range(STEPS):
        now = computed[step]
        answers = truth[step]
        if step:
            answers = torch.where(now[None, :, None], answers, known.foretold(step))
        given = answers
        if step:
            given = answers + later.pay(step, answers, now, known)
            later.told(step, ~now, known)
        for row, ledger in enumerate(ledgers):
            mine = truth[step, 0, row]
            if now[row]:
                taken = ledger.store(step)
                before = torch.tensor(taken.weights, dtype=torch.float64)
                told = (1 + taken.own) * mine + before @ slots[row, :3]
                slots[row, taken.slot] = mine
            else:
                told = torch.tensor(ledger.reuse(step), dtype=torch.float64) @ slots[row, :3]
            torch.testing.assert_close(given[0, row], told, rtol=1e-5, atol=1e-5)
        known.store(step, answers, now.nonzero()[:, 0])


@pytest.mark.parametrize("left_out", [0.0, 0.2])
@pytest.mark.parametrize("work, wholes", [(7, 5), (10, 7), (7, 6), (10, 9)])
@pytest.mark.parametrize("place", ["spread", "between"])
def test_a_plan_takes_the_work_that_it_is_given(tokens, place, work, wholes, left_out):
    sigmas = flow_sigmas(24, 5.0)
    plan = getattr(tokens["plans"], place)(sigmas, work, wholes, 0.5, left_out)
    parts = [p for p in plan if 0 < p < 1]
    assert sum(p == 1 for p in plan) == wholes and len(parts) >= 2
    assert plan[0] == plan[-1] == 1 and sum(p + (1 - p) * left_out for p in parts) == (
        pytest.approx(work - wholes)
    )
