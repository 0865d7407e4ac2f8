from __future__ import annotations

import pytest
import torch
from motioncache_pack.kernels import scatter_kv, use_backend

pytestmark = pytest.mark.usefixtures("poisoned")

CASES = [
    ((1, 1, 64), "all"),
    ((2, 63, 60), "all"),
    ((2, 63, 60), "none"),
    ((2, 63, 60), "one"),
    ((1, 130, 384), "third"),
    ((1, 1000, 64), "third"),
    ((2, 3, 1536), "third"),
]


def oracle(new, rows, store):
    store = store.clone()
    for b in range(new.shape[0]):
        for j, row in enumerate(rows[b if rows.shape[0] > 1 else 0].tolist()):
            if row >= 0:
                store[b, row] = new[b, j].float().to(store.dtype)
    return store


def some_rows(lists, length, share):
    count = {"all": length, "none": 0, "one": 1, "third": -(-length // 3)}[share]
    return torch.stack([torch.randperm(length)[:count] for _ in range(lists)]).to(torch.int32)


def check(batch, length, channels, rows, source, target, guarded, assert_same):
    k_new, v_new = (torch.randn(batch, rows.shape[1], channels).to(source) for _ in range(2))
    k_store, v_store = (guarded(torch.randn(batch, length, channels).to(target)) for _ in range(2))
    expected = [oracle(new, rows, store) for new, store in ((k_new, k_store), (v_new, v_store))]
    assert scatter_kv(k_new, v_new, rows, k_store, v_store) is None
    assert_same("k", expected[0], k_store)
    assert_same("v", expected[1], v_store)


@pytest.mark.parametrize(("shape", "share"), CASES, ids=str)
def test_one_list_for_all(backend, dtype, shape, share, guarded, assert_same):
    check(*shape, some_rows(1, shape[1], share), dtype, dtype, guarded, assert_same)


@pytest.mark.parametrize("target", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_list_for_each_batch_row_with_padding(backend, dtype, target, guarded, assert_same):
    rows = some_rows(3, 63, "third")
    rows[0, -2:] = rows[1, 0] = rows[2, :] = -1
    check(3, 63, 60, rows, dtype, target, guarded, assert_same)


@pytest.mark.parametrize("target", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_fp8_rounds_and_saturates(dtype, target):
    new = torch.randn(1, 3, 64).to(dtype)
    new[0, 0, 0], new[0, 1, 0] = 6e4, -6e4
    store = torch.zeros(1, 5, 64).to(target)
    rows = torch.tensor([[4, -1, 0]], dtype=torch.int32)
    with use_backend("reference"):
        scatter_kv(new, new, rows, store, torch.zeros_like(store))
    largest = torch.finfo(target).max
    assert torch.equal(store[0, 0].float(), new[0, 2].float().to(target).float())
    assert torch.equal(
        store[0, 4].float(), new[0, 0].float().clamp(-largest, largest).to(target).float()
    )
    assert not store[0, 1:4].float().any()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"v_new": torch.zeros(1, 3, 3)}, r"v_new has shape \[1, 3, 3\]"),
        ({"rows": torch.zeros(1, 3, dtype=torch.int32)}, "of 2 entries"),
        ({"k_store": torch.zeros(1, 3, 4).transpose(1, 2)}, "written in place"),
        ({"k_store": torch.zeros(1, 4, 3, dtype=torch.int8)}, "torch.int8"),
    ],
)
def test_bad_arguments_are_told(change, told):
    arguments = {
        "k_new": torch.zeros(1, 2, 3),
        "v_new": torch.zeros(1, 2, 3),
        "rows": torch.zeros(1, 2, dtype=torch.int32),
        "k_store": torch.zeros(1, 4, 3),
        "v_store": torch.zeros(1, 4, 3),
    }
    with pytest.raises(ValueError, match=told):
        scatter_kv(**(arguments | change))
