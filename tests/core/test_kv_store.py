"""Keys and values: kept without a copy, cut and joined by branch, placed by free memory."""

import pytest
import torch
from motioncache_pack import kernels as ops
from motioncache_pack.motioncache_core.kv_store import KVStore, place
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.motioncache_core.state import BranchRows, BranchTable
from motioncache_pack.tests.core.runs import Run, Steady, dictate, living_tensors
from motioncache_pack.tests.core.small_wan import CASES, TEXT_DIM, TEXT_TOKENS, small_wan
from motioncache_pack.tests.support.assert_close import assert_close

MIB = 2**20


def store(blocks=2, batch=2, tokens=4, channels=6, seed=0):
    rng = torch.Generator().manual_seed(seed)
    kv = KVStore(blocks)
    for block in range(blocks):
        kv.put(block, *(torch.randn(batch, tokens, channels, generator=rng) for _ in range(2)))
    return kv


def test_a_tensor_that_owns_its_memory_is_kept_without_a_copy():
    kv, (k, v) = KVStore(1), torch.randn(2, 1, 4, 6)
    k, v = k.clone(), v.clone()
    kv.put(0, k, v)
    assert kv.keys[0].data_ptr() == k.data_ptr()
    assert kv.values[0].data_ptr() == v.data_ptr()


def test_a_view_of_a_larger_tensor_is_copied_so_that_the_rest_is_freed():
    kv, fused = KVStore(1), torch.randn(1, 4, 18)
    kv.put(0, fused[..., 6:12], fused.view(1, 12, 6)[:, :4])
    for kept, whole in (
        (kv.keys[0], fused[..., 6:12]),
        (kv.values[0], fused.view(1, 12, 6)[:, :4]),
    ):
        assert torch.equal(kept, whole)
        assert kept.data_ptr() != whole.data_ptr()
        assert kept.is_contiguous()
        assert kept.untyped_storage().nbytes() == kept.nbytes


def test_a_transposed_view_is_made_contiguous():
    kv, x = KVStore(1), torch.randn(1, 6, 4)
    kv.put(0, x.transpose(1, 2), x.transpose(1, 2))
    assert kv.keys[0].is_contiguous()
    assert torch.equal(kv.keys[0], x.transpose(1, 2))


def test_scatter_writes_rows_and_returns_all():
    kv = store(blocks=1, batch=1)
    before = kv.keys[0].clone()
    new = torch.ones(1, 2, 6)
    rows = torch.tensor([[1, 3]], dtype=torch.int32)
    k, v = kv.scatter(0, new, 2 * new, rows, ops)
    assert torch.equal(k[0, [0, 2]], before[0, [0, 2]])
    assert bool((k[0, [1, 3]] == 1).all() and (v[0, [1, 3]] == 2).all())
    assert k.data_ptr() == kv.keys[0].data_ptr()


def test_complete_only_after_every_block_of_a_full_evaluation():
    kv = KVStore(2)
    x = torch.zeros(1, 1, 1)
    assert not kv.complete
    kv.put(0, x, x)
    assert not kv.complete
    kv.put(1, x, x)
    assert kv.complete
    kv.begin_dense()
    kv.put(1, x, x)
    assert not kv.complete


def test_rows_and_join_are_inverse():
    kv = store(batch=4)
    parts = [kv.rows(slice(0, 2)), kv.rows(slice(2, 4))]
    assert parts[0].keys[1].data_ptr() == kv.keys[1].data_ptr()
    joined = KVStore.join(parts)
    for block in range(2):
        assert torch.equal(joined.keys[block], kv.keys[block])
        assert torch.equal(joined.values[block], kv.values[block])
    assert joined.complete
    swapped = KVStore.join(parts[::-1])
    assert torch.equal(swapped.keys[0], torch.cat((kv.keys[0][2:], kv.keys[0][:2])))


def test_join_drops_blocks_that_one_part_lacks():
    full, part = store(batch=1), KVStore(2)
    part.put(1, torch.zeros(1, 4, 6), torch.zeros(1, 4, 6))
    joined = KVStore.join([full, part])
    assert set(joined.keys) == {1}
    assert not joined.complete


def test_bytes_are_those_of_the_tensors():
    kv = store(blocks=3, batch=2, tokens=5, channels=8)
    assert kv.nbytes() == 3 * 2 * (2 * 5 * 8 * 4)
    halves = KVStore(1)
    halves.put(0, *(torch.zeros(1, 4, 6, dtype=torch.bfloat16) for _ in range(2)))
    assert halves.nbytes() == 2 * 4 * 6 * 2


@pytest.mark.parametrize(
    "kv_cache, policy, free, chunks, store, reason",
    [
        ("auto", "motion", None, 1, True, "100 MiB on the model's device"),
        ("auto", "motion", 125, 1, True, "100 MiB of 125 MiB free"),
        ("auto", "motion", 124, 1, False, "need 100 MiB, 124 MiB are free"),
        ("auto", "random", 125, 1, True, "100 MiB of 125 MiB free"),
        ("gpu", "motion", 1, 1, True, "100 MiB on the model's device"),
        ("off", "motion", 500, 1, False, "kv_cache is off"),
        ("gpu", "chunk", 500, 1, False, "policy 'chunk' has no partial evaluations"),
        ("gpu", "step", 500, 1, False, "policy 'step' has no partial evaluations"),
        ("auto", "chunk", 125, 2, True, "100 MiB of 125 MiB free"),
        ("off", "chunk", 500, 2, False, "kv_cache is off"),
    ],
)
def test_where_keys_and_values_go(kv_cache, policy, free, chunks, store, reason):
    memory = None if free is None else lambda: free * MIB
    placed = place(kv_cache, 100 * MIB, policy, memory, chunks)
    assert placed.store is store
    assert placed.nbytes == (100 * MIB if store else 0)
    assert reason in placed.reason


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
    assert torch.equal(swapped.kv.keys[1][:2], rows.kv.keys[1][2:])
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


@pytest.mark.parametrize("forecast", [0.0, 1.0])
@pytest.mark.parametrize("split", [False, True])
def test_the_bytes_in_the_trace_are_those_that_stay_alive(forecast, split, monkeypatch):
    dictate(monkeypatch, "dense", [1, 20], "reuse", "dense")
    network = small_wan()
    x, text = torch.randn(2, 16, 3, 6, 6), torch.randn(2, TEXT_TOKENS, TEXT_DIM)
    before = living_tensors()
    run = Run(network, MotionCacheSettings(forecast=forecast))
    for sigma in (1.0, 0.875, 0.75, 0.625):
        if split:
            for i, name in enumerate("uc"):
                run.call(x[i : i + 1], 1000 * sigma, text[i : i + 1], (name,))
        else:
            run.call(x, 1000 * sigma, text, ("u", "c"))
    kept = [t for key, t in living_tensors().items() if key not in before]
    memory = [t.untyped_storage() for t in kept if t.ndim == 3 and t.shape[-1] == 256]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in memory}
    one = 2 * 27 * 256 * 4
    assert run.trace.residual_bytes == one * (2 if forecast else 1)
    assert run.trace.kv_bytes == one * 2 * 3
    assert sum(sizes.values()) == run.trace.residual_bytes + run.trace.kv_bytes
    assert set(run.kinds) == {"dense", "partial", "reuse"}


def test_without_a_store_nothing_is_kept_and_nothing_is_partial():
    settings = MotionCacheSettings(
        warmup_steps=1, uniform_updates=1, reuse_threshold=0.1, kv_cache="off"
    )
    case = CASES["text to video"]
    run = Run(case.network(), settings, profile=Steady(0.06))
    for seed in range(7):
        x, t, context, _ = case.inputs(seed)
        run.call(x, t, context)
    assert run.kinds == ["dense", *["reuse", "dense"] * 3]
    assert run.trace.kv_bytes == 0
    assert "kv_cache is off" in run.trace.kv_reason


@pytest.mark.parametrize("spare", [1, -1])
def test_the_estimate_is_what_is_kept_in_the_end(spare):
    case = CASES["text to video"]
    # keys and values of 3 blocks for 2 branches; 0.8 of the free memory may be taken
    needed = 2 * 3 * 2 * case.tokens * 256 * 4
    run = Run(case.network(), free_memory=lambda: int(needed / 0.8) + spare)
    x, t, context, _ = case.inputs(0)
    for name in ("u", "c"):
        run.call(x, t, context, (name,))
    assert run.trace.kv_bytes == (needed if spare > 0 else 0)


def test_too_little_memory_falls_back_to_whole_chunks_and_says_so():
    settings = MotionCacheSettings(warmup_steps=1, uniform_updates=0, reuse_threshold=0.1)
    case = CASES["text to video"]
    run = Run(case.network(), settings, profile=Steady(0.06), free_memory=lambda: 1024)
    for seed in range(3):
        x, t, context, _ = case.inputs(seed)
        wanted = case.network()(x, t, context)
        got = run.call(x, t, context)
        if run.kinds[-1] == "dense":
            assert_close("output", wanted, got)
    assert run.kinds == ["dense", "reuse", "dense"]
    assert "whole chunks are reused or computed" in run.trace.kv_reason
