"""The reference gives the same numbers in pieces as in one, and by lists as over all rows."""

from __future__ import annotations

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.kernels.reference import pieces as pieces_module
from motioncache_pack.kernels.reference import scatter_residual as scatter
from motioncache_pack.kernels.reference.pieces import pieces

LENGTH = 67


@pytest.mark.parametrize("limit", [1, 100, 10_000])
def test_pieces_cover_every_row_once(monkeypatch, limit):
    monkeypatch.setattr(pieces_module, "ON_CPU", limit)
    parts = pieces(LENGTH, 20, torch.zeros(1))
    assert [i for part in parts for i in range(LENGTH)[part]] == list(range(LENGTH))
    assert all(0 < part.stop - part.start <= max(1, limit // 20) for part in parts)
    assert pieces(0, 20, torch.zeros(1)) == []


def forms(slope):
    """Arguments of the merges, with what must not be read made NaN."""
    x, residual = torch.randn(LENGTH, 24), torch.randn(LENGTH, 24)
    new, places = torch.randn(31, 24), torch.full((LENGTH,), -1, dtype=torch.int32)
    # place 0 stands in for rows that have none
    new[0] = float("nan")
    places[torch.randperm(LENGTH)[:30]] = 1 + torch.randperm(30).to(torch.int32)
    y = (x + residual).masked_fill_((places >= 0)[:, None], float("nan"))
    rate = torch.randn(LENGTH)
    return y, x, new, places, residual, slope, rate


@pytest.mark.parametrize(
    ("dtype", "new_dtype", "stored_dtype"),
    [
        (torch.float32, torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float16, torch.float32),
    ],
    ids=str,
)
def test_listed_and_dense_agree(monkeypatch, dtype, new_dtype, stored_dtype, assert_same):
    for limit in (300, 1 << 20):
        monkeypatch.setattr(pieces_module, "ON_CPU", limit)
        for zeros in (None, 0.0, 0.4, 1.0):
            listed_and_dense(zeros, dtype, new_dtype, stored_dtype, assert_same)


def listed_and_dense(zeros, dtype, new_dtype, stored_dtype, assert_same):
    y, x, new, places, residual, slope, rate = forms(torch.randn(LENGTH, 24))
    y, x, new = y.to(dtype), x.to(dtype), new.to(new_dtype)
    residual, slope = residual.to(stored_dtype), slope.to(stored_dtype)
    if zeros is None:
        slope = rate = None
    else:
        rate[torch.rand(LENGTH) < zeros] = 0.0
    before = None if slope is None else slope.clone()
    results = []
    for merge in (scatter.merge_listed, scatter.merge_dense):
        mine = y.clone(), residual.clone(), None if slope is None else slope.clone()
        kept = x.clone(), new.clone()
        merge(mine[0], x, new, places, mine[1], mine[2], rate)
        assert torch.equal(kept[0], x) and torch.equal(kept[1].nan_to_num(), new.nan_to_num())
        results.append(mine)
    for name, listed, dense in zip(("y", "residual", "slope"), *results, strict=True):
        if listed is not None:
            assert bool(torch.isfinite(listed).all()), name
            assert_same(name, listed, dense)
    if slope is not None:
        untouched = (places < 0) | (rate == 0)
        assert_same("untouched", before[untouched], results[0][2][untouched])
        assert bool((before != results[0][2]).any()) == (zeros < 1.0)


@pytest.mark.parametrize("merge", [scatter.merge_listed, scatter.merge_dense])
def test_no_active_row_changes_nothing(merge):
    y, x, _, places, residual, slope, rate = forms(torch.randn(LENGTH, 24))
    y, places = torch.randn_like(x), torch.full_like(places, -1)
    kept = y.clone(), residual.clone(), slope.clone()
    for new in (x[:0], x[:3] * float("nan")):
        merge(y, x, new, places, residual, slope, rate)
    assert all(torch.equal(a, b) for a, b in zip(kept, (y, residual, slope), strict=True))


@pytest.mark.parametrize("op", ["motion_map", "reuse_residual", "correct_rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_cutting_changes_no_number(monkeypatch, dtype, op, assert_same):
    x, other = torch.randn(2, 5, 9, 24).to(dtype), torch.randn(2, 9, 24).to(dtype)
    flat = x.view(2, 45, 24)
    given = {
        "motion_map": (x,),
        "reuse_residual": (flat, flat.flip(1), flat.flip(2), torch.rand(45)),
        "correct_rows": (
            *(flat, other, 5 * torch.arange(9).to(torch.int32)),
            *(torch.arange(41).to(torch.int32), torch.randint(-1, 9, (41, 3), dtype=torch.int32)),
            torch.rand(2, 41, 3),
        ),
    }[op]
    results = []
    for limit in (1, 3000, 1 << 20):
        monkeypatch.setattr(pieces_module, "ON_CPU", limit)
        with kernels.use_backend("reference"):
            results.append(getattr(kernels, op)(*given))
    assert_same(op, results[2], results[0])
    assert_same(op, results[2], results[1])
