"""A run leaves nothing behind: not on the model, not in memory, not in the next run."""

import gc

import pytest
import torch
from motioncache_pack.motioncache_core import MotionCacheError
from motioncache_pack.motioncache_core.cache.branches import BranchRows
from motioncache_pack.tests.support.node_runs import (
    LAYERS,
    STEPS,
    decisions,
    marks,
    network_of,
    options_of,
)


def test_the_settings_of_these_tests_reach_every_kind_of_evaluation(pack):
    _, trace = pack.cached()
    assert set(marks(trace)) == {"D", "p", "."}


def test_patching_and_running_leave_the_input_model_as_it_was(pack):
    model = pack.wan()
    # loading marks the modules on the real host
    pack.sample(model, steps=1)
    before = options_of(model), network_of(model)
    weights = {k: v.clone() for k, v in model.model.diffusion_model.state_dict().items()}
    patched, _ = pack.patch(model)
    assert (options_of(model), network_of(model)) == before
    assert options_of(patched) != before[0]
    pack.sample(patched)
    assert (options_of(model), network_of(model)) == before
    after = model.model.diffusion_model.state_dict()
    assert all(torch.equal(weights[k], after[k]) for k in weights)


def test_a_run_leaves_the_patched_model_as_it_was(pack):
    patched, _ = pack.patch(pack.wan())
    before = options_of(patched)
    pack.sample(patched)
    assert options_of(patched) == before


@pytest.mark.parametrize("batch", ["together", "apart"])
def test_threshold_zero_is_bit_identical_to_no_node(pack, batch, monkeypatch):
    if batch == "apart":
        pack.host.run_short_of_memory(monkeypatch)
    model = pack.wan()
    patched, handle = pack.patch(model, reuse_threshold=0.0)
    assert torch.equal(pack.sample(patched), pack.sample(model))
    assert "reuse_threshold is 0" in handle.latest.reason


def test_removal_after_use_is_bit_identical_to_never_patched(pack):
    model = pack.wan()
    patched, _ = pack.patch(model)
    cached = pack.sample(patched)
    assert torch.equal(pack.sample(model), pack.sample(pack.wan()))
    assert not torch.equal(cached, pack.sample(model))


@pytest.mark.parametrize("changes", [{}, {"forecast": 0.7}, {"cfg_mask": "separate"}], ids=str)
def test_the_second_run_equals_the_first_and_a_fresh_patch(pack, changes):
    patched, handle = pack.patch(pack.wan(), **changes)
    first, second = pack.sample(patched), pack.sample(patched)
    fresh, trace = pack.cached(settings=changes)
    assert torch.equal(first, second)
    assert torch.equal(first, fresh)
    assert len(handle.runs) == 2
    assert decisions(handle.runs[0]) == decisions(handle.runs[1]) == decisions(trace)


def test_a_second_sampler_of_another_size_knows_nothing_of_the_first(pack):
    patched, handle = pack.patch(pack.wan())
    small, large = pack.host.latent(), pack.host.latent(frames=4, height=6, width=10)
    pack.sample(patched, latent=small)
    second = pack.sample(patched, latent=large)
    assert [run.grid for run in handle.runs] == [(3, 4, 4), (4, 3, 5)]
    assert torch.equal(second, pack.cached(latent=large)[0])


def test_a_refining_second_sampler_starts_anew(pack):
    patched, handle = pack.patch(pack.wan())
    first = pack.sample(patched)
    second = pack.sample(patched, latent=first, denoise=0.7)
    assert torch.equal(second, pack.cached(latent=first, denoise=0.7)[0])
    assert marks(handle.latest).startswith("DD")


def test_clones_of_a_patched_model_share_nothing_but_the_handle(pack):
    patched, handle = pack.patch(pack.wan())
    other = patched.clone()
    assert torch.equal(pack.sample(patched), pack.sample(other))
    assert len(handle.runs) == 2


def break_in(pack, patched, how):
    """Keyword arguments that make the run of `patched` break; half of it is done by then."""
    management = pack.host.model_management
    interrupt = management.InterruptProcessingException
    if how == "callback":

        def callback(step, *_):
            if step == 8:
                raise interrupt

        return {"callback": callback}, interrupt
    calls = []

    def hook(*_):
        calls.append(1)
        if len(calls) == 7:
            if how == "flag":
                management.interrupt_current_processing(True)
            else:
                raise interrupt if how == "interrupt in a block" else OSError("the disk is gone")

    handle = patched.model.diffusion_model.blocks[1].register_forward_pre_hook(hook)
    error = OSError if how == "error in a block" else interrupt
    return {"undo": handle.remove}, error


BREAKS = ["callback", "flag", "interrupt in a block", "error in a block"]


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_run_keeps_no_tensor_and_no_patch(pack, kept, how):
    patched, handle = pack.patch(pack.wan())
    before, guiders = options_of(patched), []

    def outermost(executor, *args, **kwargs):
        guider, options = executor.class_obj, executor.class_obj.model_options
        guiders.append(guider)
        try:
            return executor(*args, **kwargs)
        finally:
            # the host restores its own only after the wrappers
            assert guider.model_options is options

    probe = patched.clone()
    kind = pack.host.patcher_extension.WrappersMP.OUTER_SAMPLE
    probe.wrappers[kind] = {"probe": [outermost], **probe.wrappers[kind]}
    how_to, error = break_in(pack, patched, how)
    undo = how_to.pop("undo", lambda: None)
    with pytest.raises(error) as caught:
        pack.sample(probe, **how_to)
    undo()
    assert len(kept.refs) >= 2 * LAYERS + 1
    assert len(guiders) == 1
    if how != "callback":
        # the frames of the blocks hold what they were working on
        del caught
    assert kept.alive() == []
    assert options_of(patched) == before
    assert handle.latest is None
    with pytest.raises(MotionCacheError, match="no finished sampling run"):
        pack.execute("MotionCacheReport", handle, {})

    assert torch.equal(pack.sample(patched), pack.cached()[0])
    assert len(handle.latest.evaluations) == STEPS


def test_a_broken_run_hides_no_earlier_one(pack):
    patched, handle = pack.patch(pack.wan())
    pack.sample(patched)
    finished = handle.latest
    how_to, error = break_in(pack, patched, "callback")
    with pytest.raises(error):
        pack.sample(patched, **how_to)
    assert handle.latest is finished


def test_a_finished_run_keeps_no_tensor(pack, kept):
    patched, handle = pack.patch(pack.wan())
    pack.sample(patched)
    assert kept.refs
    assert kept.alive() == []
    assert not [o for o in gc.get_objects() if type(o) is BranchRows]
    held = [type(o).__name__ for o in reachable(list(handle.runs)) if torch.is_tensor(o)]
    assert held == []


def reachable(roots):
    """What the roots hold, classes and modules left out."""
    seen, left = {}, list(roots)
    while left:
        item = left.pop()
        if id(item) not in seen and not isinstance(item, (type, type(gc))):
            seen[id(item)] = item
            left.extend(gc.get_referents(item))
    return seen.values()
