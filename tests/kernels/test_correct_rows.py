from __future__ import annotations

import pytest
import torch
from motioncache_pack.kernels import correct_rows, use_backend

pytestmark = pytest.mark.usefixtures("poisoned")

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
# B, L, C, n, K, dtype, share of sources that are skipped
CASES = [
    (1, 2, 64, 1, 1, FP32, 0.0),
    (2, 63, 60, 21, 3, FP32, 0.3),
    (2, 63, 60, 21, 3, BF16, 0.0),
    (1, 130, 384, 129, 4, FP16, 0.3),
    (1, 1000, 64, 300, 8, BF16, 0.3),
    (2, 9, 1536, 4, 5, FP32, 0.0),
    (3, 17, 1100, 16, 2, FP16, 0.3),
]
NAN = float("nan")

# the fixture "poisoned" would fill it, and so take all its memory
untouched = torch.empty


def some_lists(length, count, near, skipped=0.3):
    """Rows, targets and sources; the targets in an order of their own."""
    order = torch.randperm(length).to(torch.int32)
    targets = order[count:]
    sources = torch.randint(max(1, count), (length - count, near)).to(torch.int32)
    sources[torch.rand(sources.shape) < skipped] = -1
    return order[:count].sort().values, targets, sources


def some_weight(batch, sources):
    """Of both signs; NaN where there is no source."""
    return torch.randn(batch, *sources.shape).masked_fill_(sources < 0, NAN)


def oracle(pred, new, rows, targets, sources, weight):
    """Row after row, in fp64."""
    y = torch.zeros(pred.shape[0], len(targets), pred.shape[2], dtype=torch.float64)
    for i, token in enumerate(targets.tolist()):
        y[:, i] = pred[:, token].double()
        for k, place in enumerate(sources[i].tolist()):
            if place >= 0:
                error = new[:, place].double() - pred[:, rows[place]].double()
                y[:, i] += weight[:, i, k, None].double() * error
    return y


@pytest.mark.parametrize(
    ("batch", "length", "channels", "count", "near", "dtype", "skipped"), CASES
)
def test_correct_rows(
    backend, batch, length, channels, count, near, dtype, skipped, guarded, assert_close
):
    pred = guarded(torch.randn(batch, length, channels).to(dtype))
    new = guarded(torch.randn(batch, count, channels).to(dtype))
    rows, targets, sources = map(guarded, some_lists(length, count, near, skipped))
    weight = guarded(some_weight(batch, sources))
    expected = oracle(pred, new, rows, targets, sources, weight)
    actual = correct_rows(pred, new, rows, targets, sources, weight)
    assert actual.dtype == dtype and actual.is_contiguous()
    # a half may fall on the other side of a tie when the sum is contracted
    exact = dtype == torch.float32
    assert_close("y", expected if exact else expected.to(dtype), actual, 1e-6 if exact else 1e-3)


@pytest.mark.parametrize(
    ("pred_dtype", "new_dtype"),
    [(torch.float32, torch.bfloat16), (torch.float16, torch.float32)],
    ids=str,
)
def test_two_dtypes(backend, pred_dtype, new_dtype, assert_close):
    pred, new = torch.randn(2, 31, 48).to(pred_dtype), torch.randn(2, 12, 48).to(new_dtype)
    lists = some_lists(31, 12, 3)
    weight = some_weight(2, lists[2])
    expected = oracle(pred, new, *lists, weight).to(pred_dtype)
    actual = correct_rows(pred, new, *lists, weight)
    assert actual.dtype == pred_dtype
    assert_close("y", expected, actual, 1e-6 if pred_dtype == torch.float32 else 1e-3)


def test_doubles_stay_doubles(assert_close):
    pred, new = torch.randn(2, 31, 48).double(), torch.randn(2, 12, 48).double()
    lists = some_lists(31, 12, 3)
    weight = some_weight(2, lists[2])
    with use_backend("reference"):
        actual = correct_rows(pred, new, *lists, weight)
    assert actual.dtype == torch.float64
    assert_close("y", oracle(pred, new, *lists, weight), actual, 1e-14)


def test_without_sources_the_forecast_stays(backend, assert_same):
    for count, near, dtype in ((0, 4, FP32), (12, 0, BF16), (0, 0, FP16), (12, 4, BF16)):
        pred, new = torch.randn(2, 31, 48).to(dtype), torch.full((2, count, 48), NAN).to(dtype)
        rows, targets, sources = some_lists(31, count, near, skipped=1.1)
        actual = correct_rows(pred, new, rows, targets, sources, some_weight(2, sources))
        assert_same(f"{count} rows, {near} sources", pred[:, targets.long()], actual)


def test_without_targets_there_is_nothing(backend):
    for near, dtype in ((0, FP16), (4, FP32)):
        pred, new = torch.randn(2, 12, 48).to(dtype), torch.randn(2, 12, 48).to(dtype)
        actual = correct_rows(pred, new, *some_lists(12, 12, near), torch.zeros(2, 0, near))
        assert actual.shape == (2, 0, 48) and actual.dtype == dtype


def test_rows_nobody_asks_for_are_not_read(backend):
    # place 0 stands in for none, and padding is no token
    pred, new = torch.ones(1, 4, 64), torch.full((1, 3, 64), NAN)
    pred[0, 0], new[0, 1] = NAN, 5.0
    rows = torch.tensor([0, 2, -1], dtype=torch.int32)
    targets = torch.tensor([3, 1], dtype=torch.int32)
    sources = torch.tensor([[-1, 1], [-1, -1]], dtype=torch.int32)
    weight = torch.tensor([[[NAN, 0.5], [float("inf"), NAN]]])
    y = correct_rows(pred, new, rows, targets, sources, weight)
    assert y[0].tolist() == [[3.0] * 64, [1.0] * 64]


def test_views_and_repeated_targets(backend, assert_close):
    pred, new = torch.randn(2, 31, 48), torch.randn(2, 12, 48)
    rows, _, sources = some_lists(31, 12, 6)
    targets = torch.randint(31, (38,)).to(torch.int32)
    rows, targets = rows.repeat_interleave(2)[::2], targets[::2]
    sources, weight = sources[:, ::2], torch.randn(2, 3, 19).transpose(1, 2)
    expected = oracle(pred, new, rows, targets, sources, weight)
    assert_close("y", expected, correct_rows(pred, new, rows, targets, sources, weight))


def test_the_arguments_stay(backend, assert_same):
    pred, new = torch.randn(2, 31, 48), torch.randn(2, 12, 48)
    rows, targets, sources = some_lists(31, 12, 3)
    given = pred, new, rows, targets, sources, torch.randn(2, *sources.shape)
    kept = [value.clone() for value in given]
    correct_rows(*given).fill_(7.0)
    for i, (before, after) in enumerate(zip(kept, given, strict=True)):
        assert_same(f"argument {i}", before, after)


@pytest.mark.parametrize(("batch", "length"), [(6, 430_000), (1, 2_100_000)], ids=str)
def test_offsets_beyond_32_bits(backend, batch, length, assert_close):
    # over 2^31 numbers lie before the last rows; only the pages that are touched take memory
    pred = untouched(batch, length, 1024, dtype=torch.bfloat16)
    last = torch.randn(batch, 3, 1024).to(torch.bfloat16)
    pred[:, -3:] = last
    new, weight = torch.randn(batch, 1, 1024).to(torch.bfloat16), torch.rand(batch, 2, 2)
    sources = torch.tensor([[0, -1], [0, 0]], dtype=torch.int32)
    rows, targets = (torch.tensor(at, dtype=torch.int32) for at in ([1], [0, 2]))
    expected = oracle(last, new, rows, targets, sources, weight).to(torch.bfloat16)
    far = length - 3
    actual = correct_rows(pred, new, rows + far, targets + far, sources, weight)
    assert_close("y", expected, actual, 1e-3)


TOKENS = torch.zeros(2, dtype=torch.int32)
NEAR = torch.zeros(2, 3, dtype=torch.int32)


def test_bad_arguments_are_told(assert_refused):
    arguments = {
        "pred": torch.zeros(1, 4, 5),
        "new": torch.zeros(1, 2, 5),
        "rows": TOKENS,
        "targets": TOKENS,
        "sources": NEAR,
        "weight": torch.zeros(1, 2, 3),
    }
    assert_refused(
        correct_rows,
        arguments,
        ({"pred": torch.zeros(4, 5)}, r"pred has shape \[4, 5\]; it must be \[B, L, C\]"),
        ({"pred": torch.zeros(1, 4, 5).int()}, "pred is torch.int32"),
        ({"pred": torch.zeros(1, 5, 4).transpose(1, 2)}, r"Pass pred\.contiguous"),
        ({"new": torch.zeros(1, 2, 6)}, r"new has shape \[1, 2, 6\]"),
        ({"new": torch.zeros(1, 5, 2).transpose(1, 2)}, r"Pass new\.contiguous"),
        ({"rows": TOKENS[None]}, r"rows has shape \[1, 2\]; it must be \[n\] = \[2\]"),
        ({"rows": TOKENS.long()}, r"rows\.to\(torch.int32\)"),
        ({"targets": TOKENS[None]}, r"targets has shape \[1, 2\]; it must be \[m\]"),
        ({"targets": TOKENS.long()}, r"targets\.to\(torch.int32\)"),
        ({"sources": NEAR[:1]}, r"sources has shape \[1, 3\]; it must be \[m, K\]"),
        ({"sources": NEAR.long()}, r"sources\.to\(torch.int32\)"),
        ({"weight": torch.zeros(1, 2, 2)}, r"\[B, m, K\] = \[1, 2, 3\]"),
        ({"weight": torch.zeros(1, 2, 3).half()}, r"weight\.to\(torch.float32\)"),
        ({"weight": torch.zeros(1, 2, 3, device="meta")}, r"weight\.to\('cpu'\)"),
    )
