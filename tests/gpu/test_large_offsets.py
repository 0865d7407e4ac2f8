"""Offsets beyond 32 bits: more than 2^31 numbers in a tensor, and the rows at its end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.tests.gpu.support import agree, same
from torch import Tensor

pytestmark = pytest.mark.gpu

# 2 x 75600 tokens of 720p with the 13824 channels of 14B's feed-forward are 2.09e9 numbers, just
# under 2^31; three frames more are over it
FRAMES, TOKENS, CHANNELS, HEADS = 61, 1280, 13824, 108
END = 64


def skip_without(nbytes: int) -> None:
    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    if free < nbytes * 1.1:
        pytest.skip(f"needs {nbytes / 1e9:.0f} GB on the device")


def big(device: str, dtype: torch.dtype = torch.bfloat16, count: int = 1) -> list[Tensor]:
    """Random `[2, L, C]` tensors; small ones on a CPU."""
    shape = (2, FRAMES * TOKENS, CHANNELS) if device == "cuda" else (2, 5 * END, 108)
    size = torch.Size(shape).numel()
    if device == "cuda":
        assert size > 2**31
        # one more for temporaries
        skip_without((count + 1) * size * dtype.itemsize)
    if dtype.itemsize == 1:
        # no NaN among the codes
        return [
            torch.randint(0x7F, shape, dtype=torch.uint8, device=device).view(dtype)
            for _ in range(count)
        ]
    return [torch.empty(shape, dtype=dtype, device=device).normal_() for _ in range(count)]


@pytest.fixture(autouse=True)
def give_back(device):
    yield
    if device == "cuda":
        torch.cuda.empty_cache()


def last_rows(x: Tensor) -> Tensor:
    """`[1, 2 * END]`: the last rows and the first ones."""
    length = x.shape[1]
    rows = torch.cat((torch.arange(END), torch.arange(length - END, length)))
    return rows.to(x.device, torch.int32)[None]


def ends(*tensors: Tensor) -> list[Tensor]:
    """The first rows and the last rows of `[B, L, C]` or `[L]` tensors."""
    return [
        torch.cat((t[..., :END], t[..., -END:]), dim=-1)
        if t.ndim == 1
        else torch.cat((t[:, :END], t[:, -END:]), dim=1)
        for t in tensors
    ]


def per_token(x: Tensor) -> Tensor:
    return torch.rand(x.shape[1], device=x.device) + 0.1


def reference(op: str, *args: Any) -> list[Tensor]:
    """Results of the reference, the arguments that it may have written included."""
    with kernels.use_backend("reference"):
        out = getattr(kernels, op)(*args)
    return [t for t in (out, *args) if isinstance(t, Tensor)]


def test_gather_rows(device, fast):
    (x,) = big(device)
    out, _, _ = kernels.gather_rows(x, last_rows(x))
    same(ends(x)[0], out, "rows")


def test_motion_map(device, fast):
    (x,) = big(device, count=1)
    features = x.view(2, -1, END, x.shape[2]) if device == "cpu" else x.view(2, FRAMES, TOKENS, -1)
    out = kernels.motion_map(features)
    with kernels.use_backend("reference"):
        wanted = kernels.motion_map(features[1:, -2:].contiguous())
    agree([wanted[:, 1]], [out[1:, -1]])


@pytest.mark.parametrize("forecast", [False, True], ids=["plain", "forecast"])
def test_reuse_residual(forecast, device, fast):
    x, residual, *slope = big(device, count=3 if forecast else 2)
    more = [slope[0], per_token(x)] if forecast else []
    out = kernels.reuse_residual(x, residual, *more)
    agree(reference("reuse_residual", *ends(x, residual, *more))[:1], ends(out))


@pytest.mark.parametrize("forecast", [False, True], ids=["plain", "forecast"])
def test_store_residual(forecast, device, fast):
    x, y, residual, *slope = big(device, count=4 if forecast else 3)
    more = [slope[0], per_token(x)] if forecast else []
    wanted = reference("store_residual", *ends(x, y, residual, *more))
    kernels.store_residual(x, y, residual, *more)
    agree(wanted, ends(x, y, residual, *more))


@pytest.mark.parametrize("forecast", [False, True], ids=["plain", "forecast"])
def test_scatter_residual(forecast, device, fast):
    x, residual, *slope = big(device, count=3 if forecast else 2)
    more = [slope[0], per_token(x), per_token(x)] if forecast else []
    active = END // 2
    new = torch.randn_like(x[:, :active])
    inverse = torch.full((1, x.shape[1]), -1, dtype=torch.int32, device=device)
    # the second half of the last rows is computed, the rest reused
    inverse[0, -active:] = torch.arange(active, dtype=torch.int32, device=device)
    at_ends = ends(x, residual, *more)
    wanted = reference("scatter_residual", at_ends[0], new, ends(inverse[0])[0][None], *at_ends[1:])
    out = kernels.scatter_residual(x, new, inverse, residual, *more)
    agree(wanted[:1] + wanted[4:], ends(out, residual, *more))


def test_correct_rows(device, fast):
    (pred,) = big(device)
    rows = last_rows(pred)[0]
    # computed and corrected tokens take turns, at both ends
    computed, targets = rows[::2].contiguous(), rows[1::2].contiguous()
    new = torch.randn_like(pred[:, : len(computed)])
    sources = torch.randint(-1, len(computed), (len(targets), 4), device=device).to(torch.int32)
    weight = torch.rand(2, *sources.shape, device=device)
    out = kernels.correct_rows(pred, new, computed, targets, sources, weight)
    places = torch.arange(2 * END, dtype=torch.int32, device=device)
    within = ends(pred)[0], new, places[::2], places[1::2], sources, weight
    agree(reference("correct_rows", *within)[:1], [out])


def test_scatter_kv(device, fast):
    k_store, v_store = big(device, count=2)
    k, v = (torch.randn_like(k_store[:, : 2 * END]) for _ in range(2))
    middle = k_store[:, END : 2 * END].clone()
    kernels.scatter_kv(k, v, last_rows(k_store), k_store, v_store)
    for name, new, store in (("k", k, k_store), ("v", v, v_store)):
        same(new, ends(store)[0], name)
    same(middle, k_store[:, END : 2 * END], "rows that were not written")


def test_scatter_kv_and_read_kv_in_fp8(device, fast):
    k_store, v_store = big(device, torch.float8_e4m3fn, count=2)
    k, v = (torch.randn(2, 2 * END, k_store.shape[2], device=device) for _ in range(2))
    shape = (*k_store.shape[:2], HEADS)
    k_scale, v_scale = (torch.rand(shape, device=device) + 0.1 for _ in range(2))
    kernels.scatter_kv(k, v, last_rows(k_store), k_store, v_store, k_scale, v_scale)
    small = [t.view(torch.uint8) for t in (k_store, v_store)]
    at_ends = [t.view(torch.float8_e4m3fn) for t in ends(*small)]
    scales = ends(k_scale, v_scale)
    written = [torch.zeros_like(t) for t in (*at_ends, *scales)]
    rows = torch.arange(2 * END, dtype=torch.int32, device=device)[None]
    reference("scatter_kv", k, v, rows, *written)
    agree(written, [*at_ends, *scales])
    out = kernels.read_kv(k_store, v_store, k_scale, v_scale, dtype=torch.bfloat16)
    with kernels.use_backend("reference"):
        wanted = kernels.read_kv(*at_ends, *scales, dtype=torch.bfloat16)
    agree(list(wanted), ends(*out))


def answers_of(x: Tensor) -> Tensor:
    """`[2, B, L, C]`: one that must not be read, and one beyond it."""
    if x.is_cuda:
        # and as much as one of them for the result
        skip_without(3 * 4 * x.numel())
    answers = torch.empty((2, *x.shape), device=x.device).normal_()
    answers[0] = float("nan")
    return answers


def test_reuse_answer(device, fast):
    (x,) = big(device)
    answers = answers_of(x)
    given = [0.0, 0.8], 0.7
    out = kernels.reuse_answer(x, answers, *given)
    at_ends = torch.stack(ends(*answers))
    agree(reference("reuse_answer", ends(x)[0], at_ends, *given)[:1], ends(out))


def test_store_answer(device, fast):
    x, x0 = big(device, count=2)
    answers = answers_of(x)
    given = [0.0, -0.5], 0.4, 0.7, 1
    at_ends = torch.stack(ends(*answers))
    wanted = reference("store_answer", *ends(x, x0), at_ends, *given)
    out = kernels.store_answer(x, x0, answers, *given)
    agree([wanted[0], at_ends[1]], ends(out, answers[1]))
