from __future__ import annotations

import numpy as np
import pytest
import torch
from motioncache_pack.kernels import read_kv, scatter_kv
from motioncache_pack.kernels.reference import pieces

pytestmark = pytest.mark.usefixtures("poisoned")

FP32, BF16, FP16, E4M3 = torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn


def number(code):
    """What a code of float8_e4m3fn stands for."""
    exponent, mantissa = code >> 3 & 15, code & 7
    if (exponent, mantissa) == (15, 7):
        return float("nan")
    size = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return -size if code & 128 else size


NUMBERS = torch.tensor([number(code) for code in range(256)])


def oracle(codes, scale, dtype):
    batch, length, channels = codes.shape
    heads = NUMBERS[codes.long()].unflatten(2, (scale.shape[2], -1))
    return (heads * scale[..., None]).to(dtype).view(batch, length, channels)


def some_codes(*shape):
    """Any codes but those of NaN."""
    return torch.randint(127, shape).to(torch.uint8) + 128 * torch.randint(2, shape).to(torch.uint8)


def check(codes, scales, dtype, length, assert_same):
    before = [x.clone() for x in (*codes, *scales)]
    stores = [x.view(E4M3) for x in codes]
    found = read_kv(*stores, *scales, dtype=dtype, length=length)
    for name, c, s, actual in zip("kv", codes, scales, found, strict=True):
        assert actual.is_contiguous()
        assert_same(name, oracle(c[:, :length], s[:, :length], dtype), actual)
    for was, now in zip(before, (*codes, *scales), strict=True):
        assert torch.equal(was, now)


@pytest.mark.parametrize(
    ("width", "heads", "length", "dtype"),
    [
        (32, 3, 17, FP32),
        (64, 3, 0, BF16),
        (128, 5, None, BF16),
        (256, 2, 17, FP16),
        (48, 2, 1, FP16),
        (5, 7, 17, BF16),
        (1, 3, None, FP32),
    ],
    ids=str,
)
def test_read_kv(backend, dtype, width, heads, length, guarded, assert_same):
    codes = [guarded(some_codes(2, 29, width * heads)) for _ in "kv"]
    scales = [torch.rand(2, 29, heads) * 2.0 ** torch.randint(-9, 4, (2, 29, heads)) for _ in "kv"]
    check(codes, [guarded(s) for s in scales], dtype, length, assert_same)


@pytest.mark.parametrize(
    ("width", "heads", "length", "values_in", "dtype"),
    [
        (32, 3, 17, torch.int8, BF16),
        (128, 5, 29, E4M3, FP16),
        (48, 2, 17, E4M3, FP32),
        (5, 7, 29, torch.int8, FP32),
    ],
    ids=str,
)
def test_int8(backend, dtype, width, heads, length, values_in, guarded, assert_same):
    k = guarded(torch.randint(-128, 128, (2, 29, width * heads)).to(torch.int8))
    v = guarded(some_codes(2, 29, width * heads))
    scales = [torch.rand(2, 29, heads) * 2.0 ** torch.randint(-9, 4, (2, 29, heads)) for _ in "kv"]
    found = read_kv(k, v.view(values_in), *scales, dtype=dtype, length=length)
    wanted = [(x.float().unflatten(2, (heads, -1)) * s[..., None]) for x, s in
              ((k, scales[0]), (v.view(values_in), scales[1]))]  # fmt: skip
    for name, whole, actual in zip("kv", wanted, found, strict=True):
        assert_same(name, whole.to(dtype).flatten(2)[:, :length], actual)


def test_more_numbers_than_are_taken_at_a_time(backend, monkeypatch, assert_same):
    monkeypatch.setattr(pieces, "ON_CPU", 1000)
    codes, scales = [some_codes(2, 29, 60) for _ in "kv"], [torch.rand(2, 29, 3) for _ in "kv"]
    check(codes, scales, torch.bfloat16, 23, assert_same)


@pytest.mark.parametrize("dtype", [FP32, BF16, FP16], ids=str)
def test_every_code(backend, dtype):
    codes = torch.arange(256).to(torch.uint8).view(1, 1, 256).view(E4M3)
    k, v = read_kv(codes, codes, torch.ones(1, 1, 1), torch.full((1, 1, 1), 0.5), dtype=dtype)
    for expected, actual in ((NUMBERS, k), (NUMBERS / 2, v)):
        assert torch.equal(actual[0, 0].isnan(), expected.isnan())
        both = actual[0, 0], expected.to(dtype)
        assert torch.equal(*(x.nan_to_num(9.0) for x in both))
        signs = [torch.signbit(x)[~expected.isnan()] for x in both]
        assert torch.equal(*signs)


def written_and_read(x, heads, kept_as=E4M3):
    rows = torch.arange(x.shape[1], dtype=torch.int32)[None]
    stores = [torch.zeros(x.shape).to(kept_as) for _ in "kv"]
    scales = [torch.full((*x.shape[:2], heads), float("nan")) for _ in "kv"]
    scatter_kv(x, -x, rows, *stores, *scales)
    k, v = read_kv(*stores, *scales, dtype=x.dtype)
    assert torch.equal(k.nan_to_num(9.0), (-v).nan_to_num(9.0))
    return k, scales[0]


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_what_is_written_is_read_to_half_a_step(backend, dtype):
    x = torch.randn(2, 17, 6 * 32).to(dtype)
    read, scale = written_and_read(x, 6)
    heads, error = (t.float().view(2, 17, 6, 32) for t in (x, read - x))
    # 3 bits of mantissa, and steps of 2^-9 at the least; the rest is the rounding of the result
    allowed = torch.maximum(heads.abs() * 2.0**-4, scale[..., None] * 2.0**-10)
    assert bool((error.abs() <= allowed + heads.abs() * torch.finfo(dtype).eps).all())
    largest = heads.abs().amax(-1)
    kept = read.float().view(heads.shape).abs().amax(-1)
    torch.testing.assert_close(kept, largest, rtol=torch.finfo(dtype).eps, atol=0)


def test_int8_is_read_to_half_a_step(backend):
    x = torch.randn(2, 17, 6 * 32).to(FP16)
    read, scale = written_and_read(x, 6, torch.int8)
    heads, error = (t.float().view(2, 17, 6, 32) for t in (x, read.float() - x.float()))
    allowed = 0.5001 * scale[..., None] + heads.abs() * torch.finfo(FP16).eps
    assert bool((error.abs() <= allowed).all())
    assert float(error.abs().max() / scale.max()) > 0.2


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(
    ("bad", "kept_as", "dtype"),
    [
        (float("nan"), E4M3, FP16),
        (float("nan"), torch.int8, FP32),
        (float("inf"), torch.int8, BF16),
        (-float("inf"), E4M3, BF16),
    ],
    ids=str,
)
def test_a_head_with_a_number_that_is_not_finite_reads_as_nan(backend, dtype, bad, kept_as):
    x = torch.ones(1, 3, 4 * 32, dtype=dtype)
    x[0, 1, 40] = bad
    read, _ = written_and_read(x, 4, kept_as)
    expected = torch.ones(1, 3, 4, 32)
    expected[0, 1, 1] = float("nan")
    torch.testing.assert_close(read.float().view(expected.shape), expected, equal_nan=True)


@pytest.mark.parametrize("kept_as", [E4M3, torch.int8], ids=str)
def test_a_head_of_next_to_nothing_reads_as_zeros(backend, kept_as):
    for size in (0.0, 2.0**-149, 2.0**-126, 2.0**-101):
        x = torch.full((1, 2, 64), size)
        x[0, 1] = 2.0**-100
        read, scale = written_and_read(x, 2, kept_as)
        assert scale[0, 0].tolist() == [1.0, 1.0], size
        assert not read[0, 0].any(), size
        torch.testing.assert_close(read[0, 1], x[0, 1], rtol=1e-6, atol=0)


def test_offsets_beyond_int32(backend, assert_same):
    # the system hands out its pages when they are written to, so this takes no memory
    codes = torch.from_numpy(np.zeros((3, 80000, 13824), "uint8"))
    scale = torch.from_numpy(np.zeros((3, 80000, 108), "float32"))
    codes[2, 0], scale[2, 0] = some_codes(13824), torch.rand(108)
    expected = oracle(codes[:, :1], scale[:, :1], torch.float16)
    found = read_kv(*[codes.view(E4M3)] * 2, scale, scale, dtype=torch.float16, length=1)
    for name, actual in zip("kv", found, strict=True):
        assert_same(name, expected, actual)


def test_bad_arguments_are_told(assert_refused):
    arguments = {
        "k_store": torch.zeros(1, 4, 6).to(E4M3),
        "v_store": torch.zeros(1, 4, 6).to(E4M3),
        "k_scale": torch.zeros(1, 4, 2),
        "v_scale": torch.zeros(1, 4, 2),
        "dtype": torch.float32,
    }
    assert_refused(
        read_kv,
        arguments,
        ({"k_store": torch.zeros(1, 4, 6)}, "k_store is torch.float32, and scales are given"),
        ({"v_store": torch.zeros(1, 4, 3).to(E4M3)}, r"v_store has shape \[1, 4, 3\]"),
        ({"k_scale": None}, "k_scale or v_scale is None"),
        ({"k_scale": torch.zeros(1, 4, 4), "v_scale": torch.zeros(1, 4, 4)}, "has 4 heads, and 6"),
        ({"v_scale": torch.zeros(1, 4, 3)}, r"v_scale has shape \[1, 4, 3\]"),
        ({"v_scale": torch.zeros(1, 2, 4).mT}, r"v_scale\.contiguous\(\)"),
        ({"dtype": torch.float64}, "dtype is torch.float64"),
        ({"length": 5}, "length is 5; choose a value from 0 to 4"),
    )
