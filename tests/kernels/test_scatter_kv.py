from __future__ import annotations

import numpy as np
import pytest
import torch
from motioncache_pack.kernels import scatter_kv
from motioncache_pack.kernels.reference.scatter_kv import scatter_kv as reference
from motioncache_pack.kernels.reference.scatter_kv import scatter_listed, scatter_padded
from motioncache_pack.tests.support.sync_guard import SyncGuard, on_device, on_host

pytestmark = pytest.mark.usefixtures("poisoned")

FP32, BF16, FP16, FP8 = torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn
CASES = [
    ((1, 1, 64), "all", FP16),
    ((2, 63, 60), "all", FP32),
    ((2, 63, 60), "none", FP32),
    ((2, 63, 60), "one", BF16),
    ((1, 130, 384), "third", FP16),
    ((1, 1000, 64), "third", FP32),
    ((2, 3, 1536), "third", BF16),
]

SCALES = ("k_scale", "v_scale")
E4M3 = {name: torch.zeros(1, 4, 3).to(torch.float8_e4m3fn) for name in ("k_store", "v_store")}

# sizes of the codes 0 to 126: 7 steps of 2^-9, then 8 for each of 15 exponents
NUMBERS = torch.tensor(
    [
        (code & 7) * 2.0**-9 if code < 8 else (1 + (code & 7) / 8) * 2.0 ** ((code >> 3) - 7)
        for code in range(127)
    ],
    dtype=torch.float64,
)


def scales(*shape, dtype=torch.float32):
    return {name: torch.zeros(shape, dtype=dtype) for name in SCALES}


def oracle(new, rows, store):
    store = store.clone()
    for b in range(new.shape[0]):
        for j, row in enumerate(rows[b if rows.shape[0] > 1 else 0].tolist()):
            if row >= 0:
                store[b, row] = new[b, j].to(store.dtype)
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


@pytest.mark.parametrize(("shape", "share", "dtype"), CASES, ids=str)
def test_one_list_for_all(backend, dtype, shape, share, guarded, assert_same):
    check(*shape, some_rows(1, shape[1], share), dtype, dtype, guarded, assert_same)


@pytest.mark.parametrize(
    ("dtype", "target"), [(FP32, FP16), (BF16, BF16), (FP16, BF16), (BF16, FP32)], ids=str
)
def test_a_list_for_each_batch_row_with_padding(backend, dtype, target, guarded, assert_same):
    rows = some_rows(3, 63, "third")
    rows[0, -2:] = rows[1, 0] = rows[2, :] = -1
    check(3, 63, 60, rows, dtype, target, guarded, assert_same)


@pytest.mark.parametrize("target", [BF16, FP8], ids=str)
def test_offsets_beyond_int32(backend, target, assert_same):
    # the system hands out its pages when they are written to, so this takes no memory
    size = (2, 80000, 13824)
    bits = torch.int16 if target == torch.bfloat16 else torch.uint8
    store = torch.from_numpy(np.zeros(size, str(bits).removeprefix("torch."))).view(target)
    more = {} if target == torch.bfloat16 else scales(*size[:2], 108)
    rows, new = torch.tensor([[79999, -1, 79997]], dtype=torch.int32), torch.randn(2, 3, 13824)
    # one store for both, to which the same goes twice
    scatter_kv(new, new, rows, store, store, **more)
    near = torch.zeros(2, 3, 13824).to(target)
    more = {} if target == torch.bfloat16 else scales(2, 3, 108)
    scatter_kv(new, new, torch.tensor([[2, -1, 0]], dtype=torch.int32), near, near, **more)
    assert_same("rows", near.view(bits), store.view(bits)[:, -3:])
    assert bool(near.view(bits)[:, [0, 2]].any(-1).all())


def fp8_oracle(new, heads):
    """Codes and scales by their definition: of all numbers, the nearest, and of two, the even."""
    values = new.float().reshape(-1, new.shape[2] // heads)
    amax = values.abs().amax(1, keepdim=True)
    amax[amax < 2.0**-100] = 448.0
    # as tensors: torch multiplies by the reciprocal where one side is a number
    largest = torch.full_like(amax, 448.0)
    distance = ((values * (largest / amax)).abs().double()[..., None] - NUMBERS).abs()
    # no two numbers are as near as this to each other
    nearest = (distance + torch.arange(127) % 2 * 1e-9).argmin(-1).to(torch.uint8)
    codes = nearest + 128 * torch.signbit(values).to(torch.uint8)
    return codes.view(new.shape), (amax / largest).view(*new.shape[:2], heads)


@pytest.mark.parametrize(
    ("width", "heads", "lists", "dtype"),
    [
        (32, 3, 1, FP32),
        (64, 3, 2, BF16),
        (128, 5, 1, BF16),
        (256, 2, 2, FP16),
        (48, 2, 1, FP16),
        (5, 7, 2, FP32),
        # rows of no whole number of words
        (1, 6, 1, FP32),
    ],
    ids=str,
)
def test_fp8_codes_and_scales(backend, dtype, width, heads, lists, guarded, assert_same):
    length, channels = 29, heads * width
    rows = some_rows(lists, length, "third")
    rows[:, 3] = -1
    new = [torch.randn(2, rows.shape[1], channels).to(dtype) for _ in range(2)]
    # heads of one sign, of zeros, and of numbers that span all exponents
    new[0][:, 0].abs_()
    new[1][:, 1] = 0
    new[0][:, 2] *= torch.logspace(-5, 0, channels).to(dtype)
    old = torch.randint(256, (2, 2, length, channels), dtype=torch.uint8)
    stores, sizes = [guarded(x) for x in old], [guarded(torch.rand(2, length, heads)) for _ in "kv"]
    expected = []
    for x, store, size in zip(new, stores, sizes, strict=True):
        codes, scale = fp8_oracle(x, heads)
        expected += [oracle(codes, rows, store), oracle(scale, rows, size)]
    scatter_kv(*new, rows, *(store.view(torch.float8_e4m3fn) for store in stores), *sizes)
    for name, found in zip(("k", "k_scale", "v", "v_scale"), expected, strict=True):
        actual = {"k": stores[0], "v": stores[1], "k_scale": sizes[0], "v_scale": sizes[1]}[name]
        assert_same(name, found, actual)


def int8_oracle(new, heads):
    """Codes and scales by their definition, with numpy's rounding."""
    values = new.float().reshape(-1, new.shape[2] // heads)
    amax = values.abs().amax(1, keepdim=True)
    amax[amax < 2.0**-100] = 127.0
    largest = torch.full_like(amax, 127.0)
    codes = torch.from_numpy(np.rint((values * (largest / amax)).numpy()))
    return codes.to(torch.int8).view(new.shape), (amax / largest).view(*new.shape[:2], heads)


@pytest.mark.parametrize(
    ("width", "heads", "lists", "values_in", "dtype"),
    [
        (32, 3, 2, torch.int8, FP32),
        (128, 5, 1, FP8, BF16),
        (48, 2, 2, FP8, FP16),
        (5, 7, 1, torch.int8, BF16),
        (1, 3, 2, FP8, FP32),
    ],
    ids=str,
)
def test_int8_codes_and_scales(
    backend, dtype, width, heads, lists, values_in, guarded, assert_same
):
    length, channels = 29, heads * width
    rows = some_rows(lists, length, "third")
    rows[:, 3] = -1
    k, v = (torch.randn(2, rows.shape[1], channels).to(dtype) for _ in range(2))
    k[:, 1], v[:, 1] = 0, 0
    # whole numbers and halves, which are rounded to even
    k[:, 2] = (torch.arange(channels) % 250 / 2 - 62).to(dtype)
    k[:, 2, ::width] = 127.0
    old = torch.randint(-128, 128, (2, 2, length, channels)).to(torch.int8)
    stores, sizes = [guarded(x) for x in old], [guarded(torch.rand(2, length, heads)) for _ in "kv"]
    expected = []
    for x, store, size in zip((k, v), stores, sizes, strict=True):
        codes, scale = (int8_oracle if x is k or values_in == torch.int8 else fp8_oracle)(x, heads)
        bits = oracle(codes.view(torch.int8), rows, store)
        expected.append((bits, oracle(scale, rows, size)))
    scatter_kv(k, v, rows, stores[0], stores[1].view(values_in), *sizes)
    for name, i in (("k", 0), ("v", 1)):
        assert_same(name, expected[i][0], stores[i])
        assert_same(f"{name}_scale", expected[i][1], sizes[i])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_number_that_is_not_finite_has_the_code_0(backend, assert_same):
    new = torch.ones(1, 3, 64)
    new[0, 0, 5], new[0, 1, 5], new[0, 2, 5] = float("nan"), float("inf"), -float("inf")
    stores, sizes = [torch.full((1, 3, 64), 7, dtype=torch.int8) for _ in "kv"], scales(1, 3, 1)
    scatter_kv(new, new, torch.arange(3, dtype=torch.int32)[None], *stores, *sizes.values())
    assert not any(store.any() for store in stores)
    assert bool((~torch.isfinite(sizes["k_scale"])).all())


def test_every_bf16_number_is_rounded_like_torch_rounds(backend):
    numbers = torch.arange(1 << 16).to(torch.uint16).view(torch.bfloat16)
    numbers = numbers[numbers.abs() <= 448.0]
    # one of 448 in every head makes its scale 1
    heads = torch.nn.functional.pad(numbers, (0, -len(numbers) % 255)).view(1, -1, 255)
    heads = torch.nn.functional.pad(heads, (1, 0), value=448.0)
    store = torch.zeros(heads.shape).to(torch.float8_e4m3fn)
    size = torch.zeros(*heads.shape[:2], 1)
    rows = torch.arange(heads.shape[1], dtype=torch.int32)[None]
    scatter_kv(heads, heads, rows, store, store.clone(), size, size.clone())
    assert torch.equal(store.view(torch.uint8), heads.to(store.dtype).view(torch.uint8))
    assert bool((size == 1.0).all())


PADDED = [
    [[-1, 4, -1, 2, 0], [3, -1, -1, -1, -1], [-1] * 5],
    [[-1, 4, -1, 2, 0]],
    [[5, 4, 1, 2, 0]],
    [[-1] * 5],
]


@pytest.mark.parametrize("lists", PADDED, ids=str)
def test_both_ways_of_the_reference_agree(lists, assert_same):
    rows, new = torch.tensor(lists, dtype=torch.int32), torch.randn(3, 5, 8)
    new[(rows < 0).expand(3, 5)] = float("nan")
    store = torch.randn(3, 6, 8)
    expected = oracle(new, rows, store)
    for scatter in (scatter_listed, scatter_padded):
        actual = store.clone()
        scatter(rows, [(new, actual)])
        assert_same(scatter.__name__, expected, actual)


@pytest.mark.parametrize("lists", PADDED, ids=str)
def test_the_reference_does_not_wait_for_a_device(lists, assert_same):
    rows, new = torch.tensor(lists, dtype=torch.int32), torch.randn(3, 5, 8)
    for target in (BF16, FP8):
        stores = [torch.zeros(3, 6, 8).to(target) for _ in "kv"]
        more = [torch.zeros(3, 6, 2) for _ in "kv"] if target == FP8 else []
        there = [on_device(store) for store in (*stores, *more)]
        none = [] if more else [None, None]
        reference(new, new + 1, rows, *stores, *more, *none)
        with SyncGuard():
            reference(*map(on_device, (new, new + 1, rows)), *there, *none)
        for expected, actual in zip((*stores, *more), there, strict=True):
            pair = (x.view(torch.uint8) for x in (expected, on_host(actual)))
            assert_same(f"store of {target}", *pair)


def test_bad_arguments_are_told(assert_refused):
    arguments = {
        "k_new": torch.zeros(1, 2, 3),
        "v_new": torch.zeros(1, 2, 3),
        "rows": torch.zeros(1, 2, dtype=torch.int32),
        "k_store": torch.zeros(1, 4, 3),
        "v_store": torch.zeros(1, 4, 3),
    }
    assert_refused(
        scatter_kv,
        arguments,
        ({"v_new": torch.zeros(1, 3, 3)}, r"v_new has shape \[1, 3, 3\]"),
        ({"rows": torch.zeros(1, 3, dtype=torch.int32)}, "of 2 entries"),
        ({"k_store": torch.zeros(1, 3, 4).transpose(1, 2)}, "written in place"),
        ({"k_store": torch.zeros(1, 4, 3, dtype=torch.int16)}, "torch.int16; it must be"),
        ({"k_store": torch.zeros(1, 4, 3, dtype=torch.int8)}, "v_store is torch.float32, and"),
        (
            {"k_store": torch.zeros(1, 4, 3).to(torch.float8_e5m2)},
            "float8_e4m3fn or int8 with scales",
        ),
        ({"v_store": torch.zeros(1, 4, 3).half()}, "v_store is torch.float16"),
        ({"k_scale": torch.zeros(1, 4, 1)}, "k_store is torch.float32, and scales are given"),
        (E4M3, "k_scale or v_scale is None"),
        (E4M3 | {"k_scale": torch.zeros(1, 4, 1)}, "Pass both"),
        (E4M3 | scales(1, 4, 2), "k_scale has 2 heads, and 3 channels"),
        (E4M3 | scales(1, 4, 0), "k_scale has 0 heads"),
        (E4M3 | scales(1, 5, 1), r"k_scale has shape \[1, 5, 1\]"),
        (E4M3 | scales(1, 4, 1) | {"v_scale": torch.zeros(1, 4, 3)}, r"v_scale has shape"),
        (E4M3 | scales(1, 4, 1) | {"v_store": torch.zeros(1, 4, 3)}, "v_store is torch.float32"),
        (E4M3 | scales(1, 4, 1, dtype=torch.float16), "k_scale is torch.float16"),
        (E4M3 | {name: torch.zeros(1, 3, 4).mT for name in SCALES}, "written in place"),
    )
