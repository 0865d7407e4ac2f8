from __future__ import annotations

import pytest
import torch
from motioncache_pack.kernels import gather_rows

pytestmark = pytest.mark.usefixtures("poisoned")

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
CASES = [
    ((1, 1, 64), "all", FP32),
    ((2, 63, 60), "all", FP16),
    ((2, 63, 60), "none", BF16),
    ((2, 63, 60), "one", FP32),
    ((1, 130, 384), "third", BF16),
    ((1, 1000, 64), "third", FP32),
    ((2, 3, 1536), "third", FP16),
]

# the fixture "poisoned" would fill it, and so take all its memory
untouched = torch.empty


def oracle(x, rows, divisor=1):
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


@pytest.mark.parametrize(("shape", "share", "dtype"), CASES, ids=str)
def test_one_list_for_all(backend, dtype, shape, share, assert_same):
    x = torch.randn(shape).to(dtype)
    rows = some_rows(1, shape[1], share)
    tokens, rotary, modulation = gather_rows(x, rows)
    assert_same("x", oracle(x, rows), tokens)
    assert rotary is None and modulation is None


@pytest.mark.parametrize(("batch", "dtype"), [(1, BF16), (3, FP32)], ids=["shared-x", "own-x"])
def test_a_list_for_each_batch_row_with_padding(backend, dtype, batch, assert_same):
    x = torch.randn(batch, 63, 60).to(dtype)
    rows = some_rows(3, 63, "third")
    rows[0, -2:] = rows[1, 0] = rows[2, :] = -1
    assert_same("x", oracle(x, rows), gather_rows(x, rows)[0])


@pytest.mark.parametrize(
    ("batches", "lists", "share"),
    [
        ((1, 1, 1), 1, "all"),
        ((2, 1, 2), 1, "none"),
        ((2, 2, 1), 1, "one"),
        ((3, 1, 3), 3, "third"),
        ((1, 3, 1), 3, "third"),
    ],
    ids=str,
)
def test_all_three_in_one_pass(backend, batches, lists, share, assert_same):
    frames, spatial = 3, 13
    length = frames * spatial
    x = torch.randn(batches[0], length, 1100).to(torch.bfloat16)
    # the rotary table stays fp32 whatever the model computes in
    rotary = torch.randn(batches[1], length, 20)
    modulation = torch.randn(batches[2], frames, 1540).to(torch.float16)
    rows = some_rows(lists, length, share)
    if rows.shape[1] > 1:
        rows[0, -1] = -1
    given = gather_rows(x, rows, rotary, modulation, divisor=spatial)
    assert_same("x", oracle(x, rows), given[0])
    assert_same("rotary", oracle(rotary, rows), given[1])
    assert_same("modulation", oracle(modulation, rows, spatial), given[2])


def test_either_of_the_two_may_be_left_out(backend, assert_same):
    x, rotary, modulation = torch.randn(2, 26, 64), torch.randn(1, 26, 8), torch.randn(2, 2, 48)
    rows = some_rows(1, 26, "third")
    given = gather_rows(x, rows, rotary)
    assert_same("rotary", oracle(rotary, rows), given[1])
    assert given[2] is None
    given = gather_rows(x, rows, modulation=modulation, divisor=13)
    assert_same("modulation", oracle(modulation, rows, 13), given[2])
    assert given[1] is None


def test_only_the_rows_of_the_modulation_are_divided(backend, assert_same):
    x, rotary = torch.randn(1, 12, 8), torch.randn(1, 12, 4)
    rows = torch.tensor([[11, 5]], dtype=torch.int32)
    given = gather_rows(x, rows, rotary, divisor=4)
    assert_same("x", oracle(x, rows), given[0])
    assert_same("rotary", oracle(rotary, rows), given[1])


def test_padding_does_not_spread_what_is_not_finite(backend):
    x = torch.full((1, 4, 64), float("inf"))
    rows = torch.full((1, 3), -1, dtype=torch.int32)
    for gathered in gather_rows(x, rows, x, x, divisor=2):
        assert gathered.tolist() == [[[0.0] * 64] * 3]


@pytest.mark.parametrize(("batch", "length"), [(6, 430_000), (1, 2_100_000)], ids=str)
def test_offsets_beyond_32_bits(backend, batch, length, assert_same):
    # over 2^31 numbers lie before the last rows; only the pages that are touched take memory
    x = untouched(batch, length, 1024, dtype=torch.bfloat16)
    last = torch.randn(batch, 3, 1024).to(torch.bfloat16)
    x[:, -3:] = last
    rows = torch.tensor([[length - 3, -1, length - 1]], dtype=torch.int32)
    expected = oracle(last, torch.tensor([[0, -1, 2]]))
    tokens, _, modulation = gather_rows(x, rows, modulation=x)
    assert_same("x", expected, tokens)
    assert_same("modulation", expected, modulation)


LIST = torch.zeros(1, 2, dtype=torch.int32)


def test_bad_arguments_are_told(assert_refused):
    arguments = {"x": torch.zeros(2, 4, 3), "rows": LIST}
    assert_refused(
        gather_rows,
        arguments,
        ({"rows": torch.zeros(3, 2, dtype=torch.int32)}, "with 1 or 2 lists"),
        ({"rows": LIST.long()}, r"rows\.to\(torch.int32\)"),
        ({"rows": LIST[0]}, r"list\[None\]"),
        ({"x": torch.zeros(2, 3, 4).transpose(1, 2)}, r"Pass x\.contiguous"),
        ({"rotary": torch.zeros(1, 5, 3)}, r"rotary has shape \[1, 5, 3\]"),
        ({"rotary": torch.zeros(3, 4, 3)}, "rotary has 3 batch rows, x 2 and rows 1 lists"),
        ({"rotary": torch.zeros(1, 3, 4).transpose(1, 2)}, r"Pass rotary\.contiguous"),
        ({"rotary": torch.zeros(1, 4, 3, dtype=torch.int32)}, "rotary is torch.int32"),
        ({"modulation": torch.zeros(2, 4)}, r"\[1 or B, F, M\]"),
        ({"modulation": torch.zeros(4, 1, 3)}, "modulation has 4 batch rows"),
        ({"divisor": 0}, "divisor is 0"),
    )
