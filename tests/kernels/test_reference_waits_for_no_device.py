"""On a device the reference gives what it gives on a CPU, and the host never waits for a number."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.kernels.registry import implementation
from motioncache_pack.tests.kernels.cases import CASES, E4M3, Sizes
from motioncache_pack.tests.support.sync_guard import SyncGuard, on_device, on_host

PADDED = Sizes("cpu", torch.float32, 2, 3, 21, 32, 20, head_dim=16, padding=5)
SIZES = {
    "padded": PADDED,
    "a list each, half": replace(PADDED, lists=2, padding=0, dtype=torch.bfloat16),
    "no row": replace(PADDED, count=0, padding=0),
    "all rows": replace(PADDED, count=63, padding=0, dtype=torch.float16),
    "one frame, padding only": replace(PADDED, frames=1, count=5),
}


def on(move, values):
    return [move(value) if isinstance(value, torch.Tensor) else value for value in values]


def all_of(result, arguments):
    results = result if isinstance(result, tuple) else (result,)
    return [x for x in (*results, *arguments) if isinstance(x, torch.Tensor)]


@pytest.mark.parametrize("label", CASES)
def test_no_wait_and_the_same_result(label, assert_same):
    ops = 0
    for name, sizes in SIZES.items():
        case = CASES[label](sizes)
        function = implementation(kernels.reference.__name__, case.op)
        given = list(case.arguments())
        moved = on(on_device, given)
        expected = function(*given)
        with SyncGuard() as guard:
            actual = function(*moved)
        ops += guard.ops
        pairs = zip(all_of(expected, given), all_of(actual, moved), strict=True)
        for i, (left, right) in enumerate(pairs):
            right = on_host(right)
            if left.dtype == E4M3:
                left, right = left.view(torch.uint8), right.view(torch.uint8)
            assert_same(f"{name}, tensor {i}", left, right)
    assert ops > 0
