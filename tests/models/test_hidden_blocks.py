"""The contract of families that are taken over at the model around the network, most of them
without a hook for their blocks."""

import gc
from dataclasses import replace

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core.engine.session import Session
from motioncache_pack.motioncache_core.report.trace import Trace
from motioncache_pack.motioncache_core.sampling.model_call import ModelCall
from motioncache_pack.motioncache_core.sampling.run_facts import RunFacts
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.oracle import random_rows
from motioncache_pack.tests.core.runs import Steady, dictate, left_over, living_tensors
from motioncache_pack.tests.support.assert_close import assert_close, assert_same, relative_error
from motioncache_pack.tests.support.hidden import Calls, Hidden, Oracle, notes
from motioncache_pack.tests.support.toy_hidden import TEXT, Grid, Pair

SETTINGS = MotionCacheSettings(dense_last=False, max_stale_steps=0)
SIZE = (4, 6, 8)
TOKENS = SIZE[0] * 12


def toy(kind, batch=1, framewise=False):
    network, words = kind().eval(), 5

    def call(step, prompt):
        rng, fixed = (torch.Generator().manual_seed(seed) for seed in (step, 60 + prompt))
        x = torch.randn(batch, 16, *SIZE, generator=rng)
        text = torch.randn(batch, words, TEXT, generator=fixed)
        sigma = torch.full((batch,), 4.0 - 0.5 * step)
        times = sigma[:, None] * torch.linspace(0.2, 1, SIZE[0]) if framewise else sigma
        return Calls(x, sigma, lambda options: network(x, times, text, options))

    def rows(given, named):
        if kind is Grid:
            return (given[0] if isinstance(given, tuple) else given).view(batch, TOKENS, -1)
        return named["hidden_states"] if named else given[0]

    def video_keys(keys):
        return keys.transpose(1, 2) if kind is Grid else keys[:, words:]

    return Hidden(network, TOKENS, call, rows, video_keys)


FAMILIES = {
    "grid": lambda: toy(Grid),
    "grid, a time per frame": lambda: toy(Grid, framewise=True),
    "grid, two samples": lambda: toy(Grid, 2),
    "pair": lambda: toy(Pair),
    "pair, two samples": lambda: toy(Pair, 2),
}


@pytest.fixture(params=FAMILIES)
def hidden(request):
    return FAMILIES[request.param]()


class Run:
    """One session around a family's network."""

    def __init__(self, family, settings=SETTINGS):
        self.network, self.trace = family.network, Trace(settings.as_dict())
        self.session = Session(settings, kernels, RunFacts(profile=Steady()), self.trace)

    def call(self, call, branches=("cond",)):
        given = ModelCall(self.network, call.run, call.x, call.sigma, branches, call.options)
        return self.session.evaluate(given)

    @property
    def kinds(self):
        return [call.kind for e in self.trace.evaluations for call in e.calls]


def plain(call):
    return call.run(dict(call.options))


def test_off_is_bit_identical(hidden):
    run = Run(hidden, replace(SETTINGS, reuse_threshold=0.0))
    for step in range(3):
        call = hidden.call(step, 0)
        assert_same(f"step {step}", plain(call), run.call(call))


def test_dense_is_bit_identical_and_all_rows_active_and_a_reuse_are_dense(hidden, monkeypatch):
    dictate(monkeypatch, "dense", range(hidden.tokens), "reuse")
    run = Run(hidden)
    assert_same("dense", plain(hidden.call(0, 0)), run.call(hidden.call(0, 0)))
    for name in ("all", "reuse"):
        assert_close(name, plain(hidden.call(1, 0)), run.call(hidden.call(1, 0)))
    assert run.kinds == ["dense", "partial", "reuse"]
    assert "blocks" not in vars(hidden.network)


def test_a_subset_on_unchanged_input_is_dense(hidden, monkeypatch):
    rows = [random_rows(hidden.tokens, n, n) for n in (1, hidden.tokens // 3)]
    dictate(monkeypatch, "dense", *rows)
    run, call = Run(hidden), hidden.call(0, 0)
    for i in range(3):
        assert_close(f"call {i}", plain(call), run.call(call))


def test_a_subset_on_changed_input_is_the_oracles(hidden, monkeypatch):
    rows = [random_rows(hidden.tokens, n, n) for n in (hidden.tokens // 2, 1, hidden.tokens - 1)]
    dictate(monkeypatch, "dense", rows[0], "reuse", *rows[1:])
    run, oracle = Run(hidden), Oracle(hidden)
    for step, active in enumerate([range(hidden.tokens), rows[0], [], *rows[1:]]):
        # the prompt changes in mid-run: its rows are fresh in every call
        call = hidden.call(step, step % 2)
        wanted, got = oracle.call(call, active), run.call(call)
        assert_close(f"step {step}", wanted, got)
        assert step in (0, 4) or relative_error(plain(call), got) > 1e-3
    assert run.kinds == ["dense", "partial", "reuse", "partial", "partial"]


def test_prompts_never_mix(hidden, monkeypatch):
    rows = random_rows(hidden.tokens, hidden.tokens // 2, 3)
    dictate(monkeypatch, "dense", rows, rows)
    run, oracles = Run(hidden), {"cond": Oracle(hidden), "uncond": Oracle(hidden)}
    for step, active in enumerate([range(hidden.tokens), rows, rows]):
        for prompt, (name, oracle) in enumerate(oracles.items()):
            call = hidden.call(step, prompt)
            assert_close(f"{name}, {step}", oracle.call(call, active), run.call(call, (name,)))


def test_a_decision_of_its_own_for_each_prompt(hidden, monkeypatch):
    """Where the tables of a network are one for all batch rows, the decision is, too."""
    rows = [random_rows(hidden.tokens, n, n) for n in (9, 14)]
    dictate(monkeypatch, "dense", "dense", *rows)
    call = hidden.call(0, 0)
    if len(call.x) < 2:
        pytest.skip("one batch row")
    run = Run(hidden, replace(SETTINGS, cfg_mask="separate"))
    for i in range(2):
        assert_close(f"call {i}", plain(call), run.call(call, ("cond", "uncond")))


def test_an_exception_leaves_nothing(hidden, monkeypatch):
    dictate(monkeypatch, "dense", range(5))
    call, before = hidden.call(0, 0), living_tensors()
    run = Run(hidden)
    run.call(call)
    block = hidden.network.blocks[1]
    hook = block.register_forward_pre_hook(_interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.call(call)
    hook.remove()
    run.session.close()
    assert "blocks" not in vars(hidden.network)
    gc.collect()
    assert sorted(left_over(before)) == sorted(notes(hidden.network, before))


def _interrupted(*_):
    raise KeyboardInterrupt
