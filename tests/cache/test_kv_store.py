"""Keys and values: kept without a copy, cut and joined by branch, counted in bytes."""

import pytest
import torch
from motioncache_pack import kernels as ops
from motioncache_pack.motioncache_core.cache.branches import BranchRows, BranchTable
from motioncache_pack.motioncache_core.cache.kv_blocks.block import TierResources
from motioncache_pack.motioncache_core.cache.kv_store import KVStore
from motioncache_pack.motioncache_core.cache.kv_tiers import KVTiers

places = pytest.mark.parametrize("place", ["gpu", "gpu_fp8", "cpu"])


def empty(blocks=1, place="gpu"):
    return KVStore(blocks, KVTiers(TierResources(3, ops), [place] * blocks))


def store(blocks=2, batch=2, tokens=4, channels=6, seed=0, place="gpu"):
    rng = torch.Generator().manual_seed(seed)
    kv = empty(blocks, place)
    for block in range(blocks):
        kv.put(block, *(torch.randn(batch, tokens, channels, generator=rng) for _ in range(2)))
    return kv


def test_a_tensor_that_owns_its_memory_is_kept_without_a_copy():
    kv, (k, v) = empty(), torch.randn(2, 1, 4, 6)
    k, v = k.clone(), v.clone()
    kv.put(0, k, v)
    assert [t.data_ptr() for t in kv.entries[0].tensors] == [k.data_ptr(), v.data_ptr()]


def test_a_view_of_a_larger_tensor_is_copied_so_that_the_rest_is_freed():
    kv, fused = empty(), torch.randn(1, 4, 18)
    views = fused[..., 6:12], fused.view(1, 12, 6)[:, :4]
    kv.put(0, *views)
    for kept, whole in zip(kv.entries[0].tensors, views, strict=True):
        assert torch.equal(kept, whole)
        assert kept.data_ptr() != whole.data_ptr()
        assert kept.is_contiguous()
        assert kept.untyped_storage().nbytes() == kept.nbytes


@places
def test_a_transposed_view_is_made_contiguous(place):
    kv, x = empty(place=place), torch.randn(2, 6, 4)
    kv.put(0, x.transpose(1, 2), -x.transpose(1, 2))
    k, v = kv.entries[0].read(4)
    assert all(t.is_contiguous() for t in kv.entries[0].tensors)
    close(place, k, x.transpose(1, 2))
    close(place, v, -x.transpose(1, 2))


def close(place, got, wanted):
    """8 bits: a half step of int8 for keys, three bits behind the first of fp8 for values."""
    if place == "gpu_fp8":
        assert got.shape == wanted.shape
        assert float((got - wanted).norm() / wanted.norm()) < 0.04
    else:
        assert torch.equal(got, wanted)


@places
def test_an_update_writes_rows_and_returns_all_with_the_new_ones_exact(place):
    for rows in ([[1, 3]], [[1, -1], [4, 0]], [[-1, 2]]):
        kv = store(blocks=1, tokens=5, place=place)
        before = [t.clone() for t in kv.entries[0].read(5)]
        new = torch.randn(2, 2, 6)
        rows = torch.tensor(rows, dtype=torch.int32)
        for wanted, fresh in zip(before, (new, -2 * new), strict=True):
            for b, listed in enumerate(rows.expand(2, -1).tolist()):
                for j, row in enumerate(listed):
                    if row >= 0:
                        wanted[b, row] = fresh[b, j]
        got = kv.update(0, new, -2 * new, rows, 5)
        for wanted, all_rows in zip(before, got, strict=True):
            assert torch.equal(all_rows[:, :5], wanted)
        for wanted, kept in zip(before, kv.entries[0].read(5), strict=True):
            close(place, kept, wanted)


@places
def test_a_prefix_is_read_alone(place):
    kv = store(blocks=2, tokens=7, place=place)
    rows = torch.tensor([[0, 2]], dtype=torch.int32)
    for block in range(2):
        whole = [t.clone() for t in kv.entries[block].read(7)]
        new = torch.randn(2, 2, 6)
        for got, before in zip(kv.update(block, new, new, rows, 3), whole, strict=True):
            assert torch.equal(got[:, [0, 2]], new)
            assert torch.equal(got[:, 1], before[:, 1])
        for got, before in zip(kv.entries[block].read(7), whole, strict=True):
            close(place, got[:, :3:2], new)
            assert torch.equal(got[:, 3:7], before[:, 3:])


def test_complete_only_after_every_block_of_a_full_evaluation():
    kv = empty(2)
    x = torch.zeros(1, 1, 1)
    assert not kv.complete
    kv.put(0, x, x)
    assert not kv.complete
    kv.put(1, x, x)
    assert kv.complete
    kv.begin_dense()
    kv.put(1, x, x)
    assert not kv.complete


@places
def test_rows_and_join_are_inverse(place):
    kv = store(batch=4, place=place)
    parts = [kv.rows(slice(0, 2)), kv.rows(slice(2, 4))]
    assert parts[0].entries[1].tensors[0].data_ptr() == kv.entries[1].tensors[0].data_ptr()
    joined, swapped = KVStore.join(parts), KVStore.join(parts[::-1])
    assert joined.complete
    for block in range(2):
        # what was read lasts until the second next read
        whole = [t.clone() for t in kv.entries[block].read(4)]
        for i, wanted in enumerate(whole):
            assert torch.equal(joined.entries[block].read(4)[i], wanted)
            turned = torch.cat((wanted[2:], wanted[:2]))
            assert torch.equal(swapped.entries[block].read(4)[i], turned)


def test_join_drops_blocks_that_one_part_lacks():
    full, part = store(batch=1), empty(2)
    part.put(1, torch.zeros(1, 4, 6), torch.zeros(1, 4, 6))
    joined = KVStore.join([full, part])
    assert set(joined.entries) == {1}
    assert not joined.complete


@pytest.mark.parametrize(
    "place, device, host",
    [("gpu", 2 * 5 * 6 * 2, 0), ("gpu_fp8", 2 * 5 * (6 + 3 * 4), 0), ("cpu", 0, 2 * 5 * 6 * 2)],
)
def test_bytes_are_those_of_the_tensors(place, device, host):
    kv = empty(3, place)
    for block in range(3):
        kv.put(block, *(torch.zeros(2, 5, 6, dtype=torch.bfloat16) for _ in range(2)))
    assert kv.nbytes() == (3 * 2 * device, 3 * 2 * host)


def branch(*keys, seed=0, tokens=4, samples=1):
    rng = torch.Generator().manual_seed(seed)
    batch = samples * len(keys)
    residual = torch.randn(batch, tokens, 6, generator=rng)
    kv = store(batch=batch, tokens=tokens, seed=seed)
    return BranchRows(keys, samples, residual, 2 * residual, kv, filled=True)


def test_a_table_finds_branches_in_any_order_and_grouping():
    table, rows = BranchTable(), branch("u", "c", samples=2)
    x, half = torch.zeros(4, 4, 6), torch.zeros(2, 4, 6)
    residual, size = rows.residual.clone(), rows.nbytes()
    table.put(rows)
    assert table.find(("u", "c"), x) is rows
    alone = table.find(("c",), half)
    assert torch.equal(alone.residual, residual[2:])
    assert torch.equal(alone.slope, 2 * residual[2:])
    swapped = table.find(("c", "u"), x)
    assert torch.equal(swapped.residual, torch.cat((residual[2:], residual[:2])))
    k, before = swapped.kv.entries[1].tensors[0], rows.kv.entries[1].tensors[0]
    assert torch.equal(k[:2], before[2:])
    assert swapped.filled
    assert table.nbytes() == size
    assert table.find(("u", "c", "third"), torch.zeros(6, 4, 6)) is None


@pytest.mark.parametrize(
    "x",
    [torch.zeros(1, 5, 6), torch.zeros(2, 4, 6), torch.zeros(1, 4, 6, dtype=torch.bfloat16)],
    ids=["tokens", "batch", "dtype"],
)
def test_what_does_not_fit_is_not_found(x):
    table = BranchTable()
    table.put(branch("c"))
    assert table.find(("c",), x) is None
    table.put(branch("u"))
    assert table.find(("c", "u"), torch.cat((x, x))) is None


def test_rows_that_were_read_ahead_are_not_used_after_they_changed():
    kv = store(blocks=1, place="cpu", seed=5)
    kv.entries[0].prefetch(4)
    k, v = torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    entry = kv.entries[0]
    kv.put(0, k, v)
    assert kv.entries[0] is entry
    got = entry.read(4)
    assert torch.equal(got[0], k)
    assert torch.equal(got[1], v)
