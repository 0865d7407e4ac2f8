"""On a device the reference gives what it gives on a CPU, and the host never waits for a number."""

from __future__ import annotations

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.kernels.registry import implementation
from motioncache_pack.tests.support.sync_guard import SyncGuard, on_device, on_host

LENGTH, FRAMES, CHANNELS = 63, 3, 32
RULE = (FRAMES, 0.5, 0.5, 0.1, 4)


def normal(*shape, dtype=torch.float32):
    return torch.randn(shape).to(dtype)


def some_inverse(lists, count):
    inverse = torch.full((lists, LENGTH), -1, dtype=torch.int32)
    for i in range(lists):
        inverse[i, torch.randperm(LENGTH)[:count]] = torch.arange(count, dtype=torch.int32)
    return inverse


def some_rows(lists, count, padding):
    rows = torch.stack([torch.randperm(LENGTH)[:count].sort().values for _ in range(lists)])
    return torch.nn.functional.pad(rows.to(torch.int32), (0, padding), value=-1)


def some_mask(share):
    return (torch.rand(LENGTH) < share).to(torch.uint8)


def rates(zeros):
    rate = torch.rand(LENGTH) + 0.5
    return rate * (torch.rand(LENGTH) >= zeros)


def tokens(dtype=torch.float32):
    return normal(2, LENGTH, CHANNELS, dtype=dtype)


def scattered(count, lists, zeros=0.3, dtype=torch.float32):
    new = normal(2, count, CHANNELS, dtype=dtype)
    stored = tokens(dtype), tokens(dtype), torch.rand(LENGTH), rates(zeros)
    return tokens(dtype), new, some_inverse(lists, count), *stored


def corrected(count, skipped, dtype=torch.float32, new_dtype=None):
    order, near = torch.randperm(LENGTH).to(torch.int32), 4
    rows, targets = order[:count].sort().values, order[count:].sort().values
    sources = torch.randint(max(1, count), (LENGTH - count, near), dtype=torch.int32)
    sources[torch.rand(sources.shape) < skipped] = -1
    weight = torch.rand(2, LENGTH - count, near)
    new = normal(2, count, CHANNELS, dtype=new_dtype or dtype)
    return tokens(dtype), new, rows, targets, sources, weight


def fp8(*shape):
    return normal(*shape).to(torch.float8_e4m3fn)


def kv(rows, dtype):
    new = [normal(2, rows.shape[1], CHANNELS, dtype=torch.bfloat16) for _ in range(2)]
    if dtype in (torch.float8_e4m3fn, torch.int8):
        stores = [(3 * fp8(2, LENGTH, CHANNELS).float()).to(dtype) for _ in range(2)]
        return *new, rows, *stores, *(torch.rand(2, LENGTH, 2) for _ in range(2))
    return *new, rows, *(tokens(dtype) for _ in range(2)), None, None


CASES = {
    "motion_map": {
        "alone": lambda: (normal(2, FRAMES, 21, CHANNELS), None),
        "previous": lambda: (normal(2, FRAMES, 21, CHANNELS), normal(2, 21, CHANNELS)),
        "one frame": lambda: (normal(2, 1, 21, CHANNELS), None),
    },
    "accumulate_due": {
        "weighted": lambda: (
            *(torch.rand(LENGTH), torch.randint(0, 6, (LENGTH,), dtype=torch.int32)),
            *(torch.tensor(0.3), torch.rand(LENGTH), *RULE),
        ),
        "plain": lambda: (
            *(torch.rand(LENGTH), torch.zeros(LENGTH, dtype=torch.int32)),
            *(torch.tensor([0.3]), None, *RULE),
        ),
    },
    "compact_rows": {
        "some": lambda: (some_mask(0.4),),
        "none": lambda: (some_mask(0.0),),
        "bool": lambda: (some_mask(0.4).bool(),),
    },
    "select_top": {"some": lambda: (torch.rand(LENGTH), torch.tensor([20], dtype=torch.int32))},
    "gather_rows": {
        "padded": lambda: (tokens(), some_rows(1, 20, 5), None, None, 1),
        "all three": lambda: (
            *(tokens(), some_rows(2, 20, 0), normal(1, LENGTH, 8), normal(1, FRAMES, 12)),
            LENGTH // FRAMES,
        ),
    },
    "reuse_residual": {
        "plain": lambda: (tokens(), tokens(), None, None),
        "forecast": lambda: (tokens(), tokens(), tokens(), torch.rand(LENGTH)),
        "half": lambda: (*(tokens(torch.bfloat16) for _ in range(3)), torch.rand(LENGTH)),
    },
    "scatter_residual": {
        "plain": lambda: (*scattered(20, 1)[:4], None, None, None),
        "forecast": lambda: scattered(20, 1),
        "two lists, half": lambda: scattered(20, 2, dtype=torch.bfloat16),
        "none": lambda: scattered(0, 1),
        "all, still": lambda: scattered(LENGTH, 1, zeros=1.0),
    },
    "store_residual": {
        "plain": lambda: (tokens(), tokens(), tokens(), None, None),
        "slope": lambda: (*(tokens() for _ in range(4)), rates(0.3)),
    },
    "correct_rows": {
        "near": lambda: corrected(20, 0.0),
        "some skipped": lambda: corrected(20, 0.3),
        "half": lambda: corrected(20, 0.3, torch.bfloat16),
        "a wide pred": lambda: corrected(20, 0.3, torch.float64, torch.bfloat16),
        "none computed": lambda: corrected(0, 1.0),
        "all computed": lambda: corrected(LENGTH, 0.0),
    },
    "scatter_kv": {
        "padded": lambda: kv(some_rows(1, 20, 5), torch.bfloat16),
        "two lists": lambda: kv(some_rows(2, 20, 0), torch.bfloat16),
        "fp8": lambda: kv(some_rows(1, 20, 5), torch.float8_e4m3fn),
        "int8": lambda: kv(some_rows(1, 20, 5), torch.int8),
    },
    "read_kv": {
        "prefix": lambda: (
            *(fp8(2, LENGTH, CHANNELS) for _ in range(2)),
            *(torch.rand(2, LENGTH, 2) for _ in range(2)),
            *(torch.bfloat16, 40),
        ),
    },
}


def test_every_op_has_a_case():
    assert list(CASES) == list(kernels.reference.OPS)


def on(move, values):
    return [move(value) if isinstance(value, torch.Tensor) else value for value in values]


@pytest.mark.parametrize(
    ("op", "case"), [(op, case) for op, cases in CASES.items() for case in cases]
)
def test_no_wait_and_the_same_result(op, case, assert_same):
    torch.manual_seed(4)
    function = implementation(kernels.reference.__name__, op)
    given = CASES[op][case]()
    moved = on(on_device, given)
    expected = function(*given)
    with SyncGuard() as guard:
        actual = function(*moved)
    assert guard.ops > 0

    def all_of(result, arguments):
        results = result if isinstance(result, tuple) else (result,)
        return [x for x in (*results, *arguments) if isinstance(x, torch.Tensor)]

    pairs = zip(all_of(expected, given), all_of(actual, moved), strict=True)
    for i, (left, right) in enumerate(pairs):
        right = on_host(right)
        if left.dtype == torch.float8_e4m3fn:
            left, right = left.view(torch.uint8), right.view(torch.uint8)
        assert_same(f"tensor {i}", left, right)
