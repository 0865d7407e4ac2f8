from __future__ import annotations

import pytest
import torch
from motioncache_pack.kernels import compact_rows

pytestmark = pytest.mark.usefixtures("poisoned")

MASKS = {
    "all": lambda length: torch.ones(length),
    "none": lambda length: torch.zeros(length),
    "first": lambda length: (torch.arange(length) == 0).float(),
    "last": lambda length: (torch.arange(length) == length - 1).float(),
    "some": lambda length: (torch.rand(length) < 0.3).float(),
}


CASES = [
    (1, "all", torch.uint8),
    (1, "none", torch.bool),
    (63, "last", torch.uint8),
    (63, "some", torch.bool),
    (1024, "all", torch.bool),
    (1024, "some", torch.uint8),
    (2600, "first", torch.uint8),
    (2600, "some", torch.bool),
    (2603, "none", torch.uint8),
    (2603, "last", torch.bool),
    (2603, "some", torch.uint8),
]


@pytest.mark.parametrize(("length", "filling", "kind"), CASES)
def test_compact_rows(backend, length, filling, kind, assert_same):
    mask = MASKS[filling](length).to(kind)
    chosen = [i for i, value in enumerate(mask.tolist()) if value]
    places = {row: place for place, row in enumerate(chosen)}
    rows, inverse, count = compact_rows(mask)
    padded = chosen + [-1] * (length - len(chosen))
    assert_same("rows", torch.tensor(padded, dtype=torch.int32), rows)
    listed = [places.get(i, -1) for i in range(length)]
    assert_same("inverse", torch.tensor(listed, dtype=torch.int32), inverse)
    assert_same("count", torch.tensor([len(chosen)], dtype=torch.int32), count)


def test_anything_but_zero_is_set(backend):
    rows, _, count = compact_rows(torch.tensor([0, 255, 0, 2], dtype=torch.uint8))
    assert rows.tolist() == [1, 3, -1, -1] and count.tolist() == [2]


def test_a_strided_mask_is_read_in_its_own_order(backend):
    mask = torch.tensor([[1, 0], [0, 0], [1, 1]], dtype=torch.uint8)[:, 0]
    assert compact_rows(mask)[0].tolist() == [0, 2, -1]


def test_bad_arguments_are_told(assert_refused):
    assert_refused(
        compact_rows,
        {},
        ({"mask": torch.zeros(2, 2, dtype=torch.bool)}, r"\[L\]"),
        ({"mask": torch.zeros(4)}, "torch.uint8 or torch.bool"),
    )
