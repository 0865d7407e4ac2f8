"""Every place for keys and values under tests that were written for one, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core.cache import kv_placement as kv_place
from motioncache_pack.motioncache_core.cache.kv_blocks import quantized
from motioncache_pack.motioncache_core.report.trace import Trace
from torch import Tensor

PLACES = ("gpu", "gpu_fp8", "cpu")


@pytest.fixture(params=PLACES)
def kept_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where "auto" puts keys and values; 8 bits are some that do not round."""

    def fitting(need: Any, *_: Any) -> tuple[Any, str]:
        return kv_place._forced(request.param, need), ""

    monkeypatch.setattr(kv_place, "_fitting", fitting)
    if request.param == "gpu_fp8":
        without_rounding(monkeypatch)
    return str(request.param)


def in_turn(values: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Each of the values, or tuples of them, with one place: all places before one comes again."""
    tuples = [v if isinstance(v, tuple) else (v,) for v in values]
    return [(*v, PLACES[i % len(PLACES)]) for i, v in enumerate(tuples)]


def kept_bytes(trace: Trace, kept_in: str) -> int:
    """Bytes of keys and values without what a place adds to them."""
    if kept_in == "cpu":
        return trace.kv_host_bytes
    # one head of 128 channels, and its scale
    return trace.kv_bytes * 128 // 129 if kept_in == "gpu_fp8" else trace.kv_bytes


def without_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept in 8 bits is divided by a scale that is a power of two, and not rounded.

    The scale differs by token and head, so that one in the wrong place spoils the result.
    """
    scatter = kernels.scatter_kv
    monkeypatch.setattr(quantized, "KEYS", torch.float32)
    monkeypatch.setattr(quantized, "VALUES", torch.float32)

    def scatter_kv(k: Tensor, v: Tensor, rows: Tensor, *stores: Tensor) -> None:
        if len(stores) == 2:
            return scatter(k, v, rows, *stores)
        keys, values, *scales = stores
        heads = scales[0].shape[2]
        for new, store, scale in ((k, keys, scales[0]), (v, values, scales[1])):
            power = new.unflatten(2, (heads, -1))[..., 0].abs().clamp(0.01, 100).log2().round()
            codes = new.unflatten(2, (heads, -1)) / power.exp2()[..., None]
            scatter(codes.flatten(2), codes.flatten(2), rows, store, store.clone())
            scatter(power.exp2(), power.exp2(), rows, scale, scale.clone())

    def read_kv(
        keys: Tensor, values: Tensor, k_scale: Tensor, v_scale: Tensor, *, dtype: Any, length: int
    ) -> tuple[Tensor, Tensor]:
        read = [
            (s[:, :length].unflatten(2, (f.shape[2], -1)) * f[:, :length, :, None])
            .flatten(2)
            .to(dtype)
            for s, f in ((keys, k_scale), (values, v_scale))
        ]
        return read[0], read[1]

    monkeypatch.setattr(kernels, "scatter_kv", scatter_kv)
    monkeypatch.setattr(kernels, "read_kv", read_kv)
