"""The fault matrix inside a sampler: whatever breaks or changes, the next run is bit for bit that
of a freshly made model, and nothing of the broken one is kept."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from motioncache_pack.motioncache_core.cache.branches import BranchRows
from motioncache_pack.tests.core.runs import living_tensors
from motioncache_pack.tests.support.node_runs import (
    LAYERS,
    STEPS,
    marks,
    network_of,
    options_of,
)

# a step that is partial, see the first test
PARTIAL = 6


@pytest.fixture
def unhurt(pack):
    """A patched model, and that a test leaves nothing of its runs on it or in memory."""
    wanted, _ = pack.cached()
    patched, handle = pack.patch(pack.wan())
    pack.sample(patched, steps=1)
    before = options_of(patched), network_of(patched), set(threading.enumerate())
    tensors = living_tensors()
    yield patched, handle
    new = [t for key, t in living_tensors().items() if key not in tensors]
    assert [t.shape for t in new if t.ndim == 3] == []
    assert not [o for o in gc.get_objects() if type(o) is BranchRows]
    assert (options_of(patched), network_of(patched), set(threading.enumerate())) == before
    assert torch.equal(pack.sample(patched), wanted)


def test_the_run_of_these_tests_is_partial_where_they_think(pack):
    _, trace = pack.cached()
    assert marks(trace)[PARTIAL] == "p"
    assert marks(trace)[1] == "D"


@pytest.mark.parametrize("call", [1, PARTIAL])
@pytest.mark.parametrize("block", range(LAYERS))
def test_an_exception_in_a_block(pack, unhurt, block, call):
    patched, _ = unhurt
    left = [sum(mark != "." for mark in marks(pack.cached()[1])[:call])]

    def breaks(*_):
        left[0] -= 1
        if left[0] < 0:
            raise OSError("the disk is gone")

    hook = patched.model.diffusion_model.blocks[block].register_forward_pre_hook(breaks)
    try:
        with pytest.raises(OSError, match="the disk is gone"):
            pack.sample(patched)
    finally:
        hook.remove()


@pytest.mark.parametrize("step", range(STEPS))
def test_an_interrupt_at_a_step(pack, unhurt, step):
    patched, handle = unhurt
    management = pack.host.model_management
    runs = len(handle.runs)

    def callback(at, *_):
        if at == step:
            raise management.InterruptProcessingException

    with pytest.raises(management.InterruptProcessingException):
        pack.sample(patched, callback=callback)
    assert len(handle.runs) == runs


@pytest.mark.parametrize("block", range(LAYERS))
def test_memory_that_runs_out_once_in_the_model(pack, unhurt, block):
    patched, handle = unhurt
    left = [3]

    def greedy(*_):
        left[0] -= 1
        if left[0] == 0:
            raise torch.OutOfMemoryError("simulated, in the model")

    hook = patched.model.diffusion_model.blocks[block].register_forward_pre_hook(greedy)
    try:
        latents = pack.sample(patched)
    finally:
        hook.remove()
    # residuals made room, which changes nothing
    assert torch.equal(latents, pack.cached()[0])
    assert handle.latest.residual_host_bytes > 0
    assert "moved to the host's memory" in handle.latest.residual_reason
    del latents


def test_the_hosts_batches_split_in_mid_run(pack, unhurt, monkeypatch):
    patched, handle = unhurt
    wanted, trace = pack.cached()
    with monkeypatch.context() as patch:

        def callback(step, *_):
            if step == PARTIAL - 2:
                pack.host.run_short_of_memory(patch)

        got = pack.sample(patched, callback=callback)
    calls = [len(e.calls) for e in handle.latest.evaluations]
    assert calls == [1] * (PARTIAL - 1) + [2] * (STEPS - PARTIAL + 1)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    assert marks(handle.latest) == marks(trace)
    del got, wanted


def test_a_prompt_for_a_part_of_the_schedule(pack, unhurt):
    patched, handle = unhurt
    ((states, _),) = pack.host.text(2)
    early = [[states, {"start_percent": 0.0, "end_percent": 0.3}]]
    first = pack.sample(patched, negative=early)
    branches = [sum(c.branches for c in e.calls) for e in handle.latest.evaluations]
    assert sorted(set(branches)) == [1, 2]
    assert torch.equal(first, pack.cached(negative=early)[0])
    late = [[states, {"start_percent": 0.3, "end_percent": 1.0}]]
    second = pack.sample(patched, negative=late)
    branches = [sum(c.branches for c in e.calls) for e in handle.latest.evaluations]
    back = handle.latest.evaluations[branches.index(2)].calls[0]
    # it has nothing stored yet
    assert back.kind == "dense"
    assert torch.equal(second, pack.cached(negative=late)[0])
    del first, second


SIZES = {
    "size": {"frames": 4, "height": 6, "width": 10},
    "one frame": {"frames": 1},
    "long": {"frames": 6},
}


@pytest.mark.parametrize("change", SIZES)
def test_another_size_between(pack, unhurt, change):
    patched, _ = unhurt
    latent = pack.host.latent(**SIZES[change])
    assert torch.equal(pack.sample(patched, latent=latent), pack.cached(latent=latent)[0])


def test_a_batch_of_two_between(pack, unhurt):
    patched, _ = unhurt
    latent = pack.host.latent().repeat(2, 1, 1, 1, 1)
    assert torch.equal(pack.sample(patched, latent=latent), pack.cached(latent=latent)[0])


def test_two_samplers_on_one_patched_model(pack, unhurt):
    patched, handle = unhurt
    first = pack.sample(patched)
    second = pack.sample(patched, latent=first, denoise=0.8, sampler="heun")
    assert torch.equal(second, pack.cached(latent=first, denoise=0.8, sampler="heun")[0])
    assert len(handle.runs) == 3
    del first, second


def test_one_patched_model_in_two_graphs(pack, unhurt):
    """In turns: the host itself cannot sample one model twice at the same time."""
    patched, handle = unhurt
    other, latent = patched.clone(), pack.host.latent(frames=2)
    alone = [pack.cached()[0], pack.cached(latent=latent)[0]]
    for _ in range(2):
        assert torch.equal(pack.sample(patched), alone[0])
        assert torch.equal(pack.sample(other, latent=latent), alone[1])
    assert [run.grid[0] for run in handle.runs] == [3, 2, 3, 2]
    alone.clear()


def test_models_sampled_in_parallel_threads(pack, unhurt):
    models = {name: pack.patch(pack.wan())[0] for name in ("one", "two")}
    models["other settings"], _ = pack.patch(pack.wan(), policy="chunk")
    alone = {name: pack.sample(model) for name, model in models.items()}
    assert not torch.equal(alone["one"], alone["other settings"])
    found, start = {}, threading.Barrier(len(models))

    def work(name):
        start.wait()
        found[name] = pack.sample(models[name])

    threads = [threading.Thread(target=work, args=(name,)) for name in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: torch.equal(found[name], alone[name]) for name in models} == dict.fromkeys(
        models, True
    )
    models.clear(), alone.clear(), found.clear()


def test_twenty_runs_in_a_row_keep_no_tensor(pack, unhurt):
    patched, handle = unhurt
    for _ in range(5):
        pack.sample(patched)
    gc.collect()
    before = len(living_tensors())
    for _ in range(20):
        pack.sample(patched)
    assert len(living_tensors()) == before
    assert len(handle.runs) == handle.runs.maxlen
