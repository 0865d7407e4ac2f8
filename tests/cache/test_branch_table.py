"""Branches that are over are let go, and nothing of them stays behind."""

import gc
import weakref

import pytest
import torch
from motioncache_pack import kernels as ops
from motioncache_pack.motioncache_core.cache.branches import BranchRows, BranchTable
from motioncache_pack.motioncache_core.cache.kv_blocks.block import TierResources
from motioncache_pack.motioncache_core.cache.kv_store import KVStore
from motioncache_pack.motioncache_core.cache.kv_tiers import KVTiers

BLOCKS, ROWS, WIDTH = 2, 7, 6


def rows_of(*keys, seed=0, tier="gpu"):
    """The state of some branches that run as one batch, with keys and values of every block."""
    rng = torch.Generator().manual_seed(seed)

    def made():
        return torch.randn(len(keys), ROWS, WIDTH, generator=rng)

    tiers = KVTiers(TierResources(1, ops), [tier] * BLOCKS, False, (tier,), False)
    store = KVStore(BLOCKS, tiers)
    store.begin_dense()
    for block in range(BLOCKS):
        store.put(block, made(), made())
    return BranchRows(keys, 1, made(), made(), store, filled=True)


def content(rows):
    kv = [t for entry in rows.kv.entries.values() for t in entry.read(ROWS)]
    return [t.clone() for t in (rows.residual, rows.slope, *kv)]


@pytest.fixture
def table():
    found = BranchTable()
    found.put(rows_of("u", "c", "d"))
    found.put(rows_of("alone", seed=1))
    return found


def test_what_is_kept_is_as_it_was_and_holds_no_memory_of_the_others(table):
    wanted = [part for part in table.entries["u"].split() if part.keys == ("c",)]
    before = content(wanted[0])
    whole = weakref.ref(table.entries["u"].residual)
    del wanted
    table.keep({"c", "alone"})
    assert sorted(table.entries) == ["alone", "c"]
    kept = table.entries["c"]
    for mine, old in zip(content(kept), before, strict=True):
        assert torch.equal(mine, old)
    for tensor in (kept.residual, kept.slope, *kept.kv.entries[0].tensors):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
    gc.collect()
    assert whole() is None and kept.filled and kept.kv.complete


def test_branches_that_have_come_one_by_one_give_back_what_they_shared(table):
    x = torch.zeros(1, ROWS, WIDTH)
    for key in ("u", "c", "d"):
        assert table.find((key,), x) is not None
    table.keep({"u", "alone"})
    residual = table.entries["u"].residual
    assert residual.untyped_storage().nbytes() == residual.nbytes


def test_what_is_all_asked_for_is_not_copied(table):
    before = {key: id(rows) for key, rows in table.entries.items()}
    table.keep({"u", "c", "d", "alone", "another"})
    assert {key: id(rows) for key, rows in table.entries.items()} == before


def test_a_new_branch_in_a_batch_frees_the_old_ones_first(table):
    refs = [weakref.ref(t) for t in (table.entries["u"].residual, table.entries["u"].slope)]
    assert table.find(("u", "new"), torch.zeros(2, ROWS, WIDTH)) is None
    table.forget(("u", "new"))
    gc.collect()
    assert sorted(table.entries) == ["alone"] and [ref() for ref in refs] == [None, None]


def test_no_room_for_a_copy_forgets_the_branch(table, monkeypatch):
    def full(_):
        raise torch.OutOfMemoryError("simulated")

    monkeypatch.setattr(BranchRows, "join", full)
    table.keep({"c", "alone"})
    assert sorted(table.entries) == ["alone"]
