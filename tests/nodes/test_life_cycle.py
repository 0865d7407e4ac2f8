"""A run that ends well leaves nothing behind: not on the model, not in memory, not in the next run.

`test_faults.py` has those that break.
"""

import gc

import pytest
import torch
from motioncache_pack.motioncache_core.cache.branches import BranchRows
from motioncache_pack.tests.support.node_runs import decisions, network_of, options_of


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
    assert torch.equal(pack.sample(model), pack.sample(pack.wan()))
    after = model.model.diffusion_model.state_dict()
    assert all(torch.equal(weights[k], after[k]) for k in weights)


@pytest.mark.parametrize("batch", ["together", "apart"])
def test_threshold_zero_is_bit_identical_to_no_node(pack, batch, monkeypatch):
    if batch == "apart":
        pack.host.run_short_of_memory(monkeypatch)
    model = pack.wan()
    patched, handle = pack.patch(model, reuse_threshold=0.0)
    assert torch.equal(pack.sample(patched), pack.sample(model))
    assert "reuse_threshold is 0" in handle.latest.reason


def test_the_second_run_equals_the_first_and_a_fresh_patch(pack):
    changes = {"forecast": 0.7, "cfg_mask": "separate"}
    patched, handle = pack.patch(pack.wan(), **changes)
    first, second = pack.sample(patched), pack.sample(patched)
    fresh, trace = pack.cached(settings=changes)
    assert torch.equal(first, second)
    assert torch.equal(first, fresh)
    assert len(handle.runs) == 2
    assert decisions(handle.runs[0]) == decisions(handle.runs[1]) == decisions(trace)


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
