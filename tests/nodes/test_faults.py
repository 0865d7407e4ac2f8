"""The fault matrix inside a sampler: whatever breaks or changes, the next run is bit for bit that
of a freshly made model, and nothing of the broken one is kept."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from motioncache_pack.motioncache_core import MotionCacheError
from motioncache_pack.motioncache_core.cache.branches import BranchRows
from motioncache_pack.tests.core.runs import living_tensors
from motioncache_pack.tests.support.node_runs import (
    LAYERS,
    STEPS,
    marks,
    network_of,
    options_of,
)

# a step that is partial and one that is reused, see the first test
PARTIAL, REUSED = 6, 5


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


def test_the_run_of_these_tests_is_mixed_where_they_think(pack):
    _, trace = pack.cached()
    assert [marks(trace)[step] for step in (1, PARTIAL, REUSED)] == ["D", "p", "."]


@pytest.fixture
def restored(pack):
    """`restored(patched)`: a clone that checks, behind a run, what the host will restore later."""

    def outermost(executor, *args, **kwargs):
        guider, options = executor.class_obj, executor.class_obj.model_options
        try:
            return executor(*args, **kwargs)
        finally:
            assert guider.model_options is options
            checked.append(1)

    def probe(patched):
        clone = patched.clone()
        kind = pack.host.patcher_extension.WrappersMP.OUTER_SAMPLE
        clone.wrappers[kind] = {"probe": [outermost], **clone.wrappers[kind]}
        return clone

    checked = []
    yield probe
    assert checked == [1]


# where a run breaks: the callback of a step, or a call of a block in an evaluation
BREAKS = [
    ("callback", 0, None), ("callback", PARTIAL, None), ("callback", REUSED, None),
    ("callback", STEPS - 1, None), ("flag", 1, 1), ("interrupt", PARTIAL, 1), ("error", 1, 0),
    ("error", PARTIAL, 1),
]  # fmt: skip


@pytest.mark.parametrize(("how", "step", "block"), BREAKS, ids=str)
def test_a_broken_run(pack, unhurt, restored, kept, how, step, block):
    patched, handle = unhurt
    management = pack.host.model_management
    interrupt = management.InterruptProcessingException
    error = OSError if how == "error" else interrupt
    runs, before = list(handle.runs), options_of(patched)
    left = [sum(mark != "." for mark in marks(pack.cached()[1])[:step])]
    kept.refs.clear()

    def break_here(*_):
        left[0] -= 1
        if left[0] < 0 and how == "flag":
            management.interrupt_current_processing(True)
        elif left[0] < 0:
            raise error("the disk is gone") if how == "error" else error

    def callback(at, *_):
        if at == step:
            raise error

    blocks = patched.model.diffusion_model.blocks
    hook = block is not None and blocks[block].register_forward_pre_hook(break_here)
    try:
        with pytest.raises(error) as caught:
            pack.sample(restored(patched), callback=callback if block is None else None)
    finally:
        if hook:
            hook.remove()
    # the frames of the blocks hold what they were working on
    del caught
    assert len(kept.refs) >= (0 if how in ("flag", "error") and step == 1 else 2 * LAYERS + 1)
    assert kept.alive() == []
    assert options_of(patched) == before
    # what is told is the last run that was finished
    assert list(handle.runs) == runs


def test_a_first_run_that_breaks_has_no_report(pack):
    patched, handle = pack.patch(pack.wan())
    stop = pack.host.model_management.InterruptProcessingException

    def callback(*_):
        raise stop

    with pytest.raises(stop):
        pack.sample(patched, callback=callback)
    assert handle.latest is None
    with pytest.raises(MotionCacheError, match="no finished sampling run"):
        pack.execute("MotionCacheReport", handle, {})


def test_memory_that_runs_out_once_in_the_model(pack, unhurt):
    patched, handle = unhurt
    left = [3]

    def greedy(*_):
        left[0] -= 1
        if left[0] == 0:
            raise torch.OutOfMemoryError("simulated, in the model")

    hook = patched.model.diffusion_model.blocks[1].register_forward_pre_hook(greedy)
    try:
        latents = pack.sample(patched)
    finally:
        hook.remove()
    # residuals made room, which changes nothing
    assert torch.equal(latents, pack.cached()[0])
    assert handle.latest.residual_host_bytes > 0
    assert "moved to the host's memory" in handle.latest.residual_reason
    del latents


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


@pytest.mark.parametrize("size", [{"frames": 4, "height": 6, "width": 10}, {"frames": 1}], ids=str)
def test_another_size_between(pack, unhurt, size):
    patched, handle = unhurt
    latent = pack.host.latent(**size)
    got, alone = pack.sample(patched, latent=latent), pack.cached(latent=latent)
    assert torch.equal(got, alone[0])
    assert handle.latest.grid == alone[1].grid


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
    assert [run.grid[0] for run in list(handle.runs)[-4:]] == [3, 2, 3, 2]
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


def test_runs_in_a_row_keep_no_tensor_and_a_bounded_history(pack, unhurt):
    patched, handle = unhurt
    for _ in range(3):
        pack.sample(patched)
    gc.collect()
    before = len(living_tensors())
    for _ in range(handle.runs.maxlen):
        pack.sample(patched, 9)
    assert len(living_tensors()) == before
    assert len(handle.runs) == handle.runs.maxlen
