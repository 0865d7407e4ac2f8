"""Block of frames by block, with keys and values that are the network's: it writes and attends to
what it would without us, whatever is computed."""

import gc
from dataclasses import replace

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core.common.reasons import because, code_of
from motioncache_pack.motioncache_core.engine.session import Session
from motioncache_pack.motioncache_core.models import registry
from motioncache_pack.motioncache_core.models.wan_causal import WAN_CAUSAL, WITH_OWN_KEYS
from motioncache_pack.motioncache_core.report.run_summary import RunSummary
from motioncache_pack.motioncache_core.report.trace import Trace
from motioncache_pack.motioncache_core.sampling.model_call import ModelCall
from motioncache_pack.motioncache_core.sampling.run_facts import RunFacts
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.oracle import random_rows
from motioncache_pack.tests.core.runs import Steady, dictate, left_over, living_tensors
from motioncache_pack.tests.core.small_wan import TEXT_DIM, TEXT_TOKENS
from motioncache_pack.tests.support.assert_close import assert_close, assert_same, relative_error
from motioncache_pack.tests.support.toy_causal import (
    FRAMES,
    ROWS,
    SIDE,
    OwnKeys,
    new_state,
    next_block,
    take_back,
)

SETTINGS = MotionCacheSettings(dense_last=False, max_stale_steps=0)
NETWORK = OwnKeys().eval()


def noisy(seed, batch=1):
    return torch.randn(batch, 16, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


TEXT = torch.randn(1, TEXT_TOKENS, TEXT_DIM, generator=torch.Generator().manual_seed(50))


class Run:
    """A session, and the network's keys and values."""

    def __init__(self, batch=1, network=NETWORK):
        self.network, self.state = network, new_state(batch=batch)
        self.trace = Trace(SETTINGS.as_dict())
        self.session = Session(SETTINGS, kernels, RunFacts(profile=Steady()), self.trace)

    def call(self, x, level, whole=None):
        sigma = torch.full((len(x),), level)

        def run(options):
            return self.network(x, sigma, TEXT.expand(len(x), -1, -1), options["ar_state"])

        return self.session.evaluate(
            ModelCall(
                self.network, run, x, sigma, ("cond",), {"ar_state": self.state},
                part=self.state["start_frame"], whole=whole,
            )
        )  # fmt: skip

    @property
    def kept(self):
        """Keys of the frames so far, and where they end."""
        caches = self.state["kv_caches"]
        (end,) = {cache["end"] for cache in caches}
        return end, [cache[name][:, :end].clone() for cache in caches for name in ("k", "v")]


def plain(state, x, level, stale=()):
    """The bare network's answer; keys and values of stale rows stay as they were."""
    for block in NETWORK.blocks:
        block.stale = stale
    try:
        return NETWORK(x, torch.full((len(x),), level), TEXT.expand(len(x), -1, -1), state)
    finally:
        for block in NETWORK.blocks:
            block.stale = ()


def active(video, rows):
    """Patches of these rows of `(B, 16, F, 8, 8)`."""
    patches = video.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).permute(0, 2, 3, 5, 1, 4, 6)
    return patches.reshape(len(video), ROWS, -1)[:, rows]


def same_kept(run, state):
    end, kept = run.kept
    assert {cache["end"] for cache in state["kv_caches"]} == {end}
    wanted = [cache[name][:, :end] for cache in state["kv_caches"] for name in ("k", "v")]
    for i, (mine, theirs) in enumerate(zip(kept, wanted, strict=True)):
        assert_close(f"kept {i}", theirs, mine)


@pytest.mark.parametrize("batch", [1, 2])
def test_all_rows_active_is_the_plain_run_over_two_blocks_of_frames(batch, monkeypatch):
    dictate(monkeypatch, *["dense", range(ROWS), range(ROWS)] * 2)
    run, state = Run(batch), new_state(batch=batch)
    for frames in range(2):
        for step in range(3):
            if step:
                take_back(run.state), take_back(state)
            x, level = noisy(10 * frames + step, batch), 0.9 - 0.2 * step
            assert_close(f"{frames}, {step}", plain(state, x, level), run.call(x, level))
            same_kept(run, state)
        run.state, state = next_block(run.state), next_block(state)
    assert [c.kind for c in run.trace.calls()] == ["dense", "partial", "partial"] * 2
    assert "blocks" not in vars(NETWORK)


def test_a_dense_call_is_bit_identical(monkeypatch):
    dictate(monkeypatch, "dense", "dense")
    run, state = Run(), new_state()
    for step in range(2):
        x = noisy(step)
        assert_same(f"step {step}", plain(state, x, 0.9), run.call(x, 0.9))
        take_back(run.state), take_back(state)


def test_a_subset_and_a_reuse_on_unchanged_input_are_dense(monkeypatch):
    rows = random_rows(ROWS, 19, 2)
    dictate(monkeypatch, "dense", rows, [7], "reuse", rows)
    run, state, x = Run(), new_state(), noisy(3)
    wanted = plain(state, x, 0.8)
    for step in range(5):
        if step:
            take_back(run.state)
        assert_close(f"step {step}", wanted, run.call(x, 0.8))
        same_kept(run, state)
    assert [c.blocks for c in run.trace.calls()] == [3, 3, 3, 0, 3]


def test_changed_input_is_the_oracles(monkeypatch):
    chosen = [random_rows(ROWS, n, n) for n in (19, 1, 40)]
    dictate(monkeypatch, "dense", "dense", *chosen)
    run, state = Run(), new_state()
    # the frames before are attended to, too
    for frames in range(2):
        for keys in (run.state, state):
            keys["start_frame"] = frames * FRAMES
        assert_same("dense", plain(state, noisy(frames), 0.9), run.call(noisy(frames), 0.9))
    for step, rows in enumerate(chosen):
        take_back(run.state), take_back(state)
        x, level = noisy(20 + step), 0.8 - 0.1 * step
        before = new_state()
        for mine, theirs in zip(before["kv_caches"], state["kv_caches"], strict=True):
            mine.update({name: theirs[name].clone() for name in ("k", "v")}, end=theirs["end"])
        before["start_frame"] = FRAMES
        bare = plain(before, x, level)
        stale = [row for row in range(ROWS) if row not in rows]
        wanted, got = plain(state, x, level, stale), run.call(x, level)
        assert_close(f"step {step}", active(wanted, rows), active(got, rows))
        same_kept(run, state)
        assert relative_error(active(bare, rows), active(got, rows)) > 1e-3


def test_a_new_block_of_frames_starts_afresh(monkeypatch):
    dictate(monkeypatch, "dense", "reuse", "reuse")
    run, state = Run(), new_state()
    plain(state, noisy(1), 0.9), run.call(noisy(1), 0.9)
    take_back(run.state)
    run.call(noisy(1), 0.9)
    run.state, state = next_block(run.state), next_block(state)
    # nothing of the last block's is left to reuse
    assert_same("next block", plain(state, noisy(2), 0.9), run.call(noisy(2), 0.9))
    assert [c.kind for c in run.trace.calls()] == ["dense", "reuse", "dense"]


def test_the_call_that_writes_finished_frames_is_computed(monkeypatch):
    dictate(monkeypatch, "dense", "reuse")
    run, state = Run(), new_state()
    run.call(noisy(1), 0.9), plain(state, noisy(1), 0.9)
    for keys in (run.state, state):
        take_back(keys)
    wanted = plain(state, noisy(2), 0.0)
    assert_same("written", wanted, run.call(noisy(2), 0.0, because("cache_written")))
    same_kept(run, state)
    assert run.trace.reason == ""
    assert [code_of(note) for note in RunSummary(run.trace).notes] == ["cache_written"]


def test_a_skipped_call_that_leaves_the_end_where_it_was_is_wrong(monkeypatch):
    """The trap: the sampler takes the frames' rows off again, and those before lose theirs."""
    (run,) = WITH_OWN_KEYS.runs
    left_out = replace(run, shadow=replace(run.shadow, skip=lambda args: None))
    wrong = replace(WAN_CAUSAL, of_call=lambda *_: replace(WITH_OWN_KEYS, runs=(left_out,)))
    state = new_state()
    plain(state, noisy(0), 0.9)
    wanted, errors = plain(next_block(state), noisy(1), 0.8), []
    for adapter in (WAN_CAUSAL, wrong):
        monkeypatch.setattr(registry, "ADAPTERS", (adapter,))
        dictate(monkeypatch, "dense", "dense", "reuse", "dense")
        run = Run()
        run.call(noisy(0), 0.9)
        run.state = next_block(run.state)
        for step in range(3):
            if step:
                take_back(run.state)
            got = run.call(noisy(1), 0.8)
        errors.append(relative_error(wanted, got))
    assert errors[0] < 1e-5 and errors[1] > 1e-3


def test_an_exception_leaves_nothing(monkeypatch):
    dictate(monkeypatch, "dense", range(5))
    network = OwnKeys().eval()
    x, before = noisy(1), living_tensors()
    run = Run(network=network)
    run.call(x, 0.9)
    take_back(run.state)
    hook = network.blocks[1].register_forward_pre_hook(_interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.call(x, 0.8)
    hook.remove()
    run.session.close()
    assert "blocks" not in vars(network)
    del run
    gc.collect()
    assert left_over(before) == []


def _interrupted(*_):
    raise KeyboardInterrupt


def test_blocks_that_another_node_hides_are_left_alone():
    network = OwnKeys().eval()
    run = Run(network=network)
    vars(network)["blocks"] = list(network.blocks)
    wanted = plain(new_state(), noisy(1), 0.9)
    assert_same("untouched", wanted, run.call(noisy(1), 0.9))
    assert code_of(run.trace.reason) == "blocks_hidden"
