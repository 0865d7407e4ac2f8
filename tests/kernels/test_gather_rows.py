from __future__ import annotations

import pytest
import torch
from motioncache_pack.kernels import gather_rows

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


def oracle(x, rows, divisor):
    batch = max(x.shape[0], rows.shape[0])
    out = torch.zeros(batch, rows.shape[1], x.shape[2], dtype=x.dtype)
    for b in range(batch):
        source = x[b if x.shape[0] > 1 else 0]
        for j, row in enumerate(rows[b if rows.shape[0] > 1 else 0].tolist()):
            if row >= 0:
                out[b, j] = source[row // divisor]
    return out


def some_rows(lists, length, share):
    count = {"all": length, "none": 0, "one": 1, "third": -(-length // 3)}[share]
    picks = [torch.randperm(length)[:count].sort().values for _ in range(lists)]
    return torch.stack(picks).to(torch.int32)


@pytest.mark.parametrize(("shape", "share"), CASES, ids=str)
def test_one_list_for_all(backend, dtype, shape, share, assert_same):
    x = torch.randn(shape).to(dtype)
    rows = some_rows(1, shape[1], share)
    assert_same("rows", oracle(x, rows, 1), gather_rows(x, rows))


@pytest.mark.parametrize("batch", [1, 3], ids=["shared-x", "own-x"])
def test_a_list_for_each_batch_row_with_padding(backend, dtype, batch, assert_same):
    x = torch.randn(batch, 63, 60).to(dtype)
    rows = some_rows(3, 63, "third")
    rows[0, -2:] = rows[1, 0] = rows[2, :] = -1
    assert_same("rows", oracle(x, rows, 1), gather_rows(x, rows))


@pytest.mark.parametrize("lists", [1, 2])
def test_modulation_of_the_frame_of_a_token(backend, lists, assert_same):
    x = torch.randn(2, 3, 384)
    rows = some_rows(lists, 3 * 13, "third")
    rows[0, -1] = -1
    assert_same("rows", oracle(x, rows, 13), gather_rows(x, rows, divisor=13))


def test_padding_does_not_spread_what_is_not_finite(backend):
    x = torch.full((1, 4, 64), float("inf"))
    assert gather_rows(x, torch.full((1, 3), -1, dtype=torch.int32)).tolist() == [[[0.0] * 64] * 3]


@pytest.mark.parametrize(
    ("x", "rows", "told"),
    [
        (torch.zeros(2, 4, 3), torch.zeros(3, 2, dtype=torch.int32), "with 1 or 2 lists"),
        (torch.zeros(1, 4, 3), torch.zeros(1, 2, dtype=torch.int64), r"rows\.to\(torch.int32\)"),
        (torch.zeros(1, 4, 3), torch.zeros(2, dtype=torch.int32), r"list\[None\]"),
        (torch.zeros(1, 3, 4).transpose(1, 2), torch.zeros(1, 2, dtype=torch.int32), "contiguous"),
    ],
)
def test_bad_arguments_are_told(x, rows, told):
    with pytest.raises(ValueError, match=told):
        gather_rows(x, rows)


def test_a_divisor_below_one_is_told():
    with pytest.raises(ValueError, match="divisor is 0"):
        gather_rows(torch.zeros(1, 4, 3), torch.zeros(1, 2, dtype=torch.int32), divisor=0)
