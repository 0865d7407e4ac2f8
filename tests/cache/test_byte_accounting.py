"""The bytes that are promised before a run and reported after it are those of live storages."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core.cache import residual_placement as residual_place
from motioncache_pack.motioncache_core.cache.kv_bytes import KVBytes
from motioncache_pack.motioncache_core.cache.kv_placement import Placement, choose_placement
from motioncache_pack.motioncache_core.cache.residual_placement import (
    ResidualPlacement,
    place_residuals,
)
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.runs import Run, dictate, living_tensors
from motioncache_pack.tests.core.small_wan import TEXT_DIM, TEXT_TOKENS, small_wan

MIB = 2**20
# latent frames, rows and columns; branches; samples of each; heads and blocks
GEOMETRIES = {
    "small": ((3, 6, 6), 2, 1, (2, 3)),
    "odd sides": ((2, 5, 7), 1, 2, (1, 2)),
    "three prompts": ((9, 4, 2), 3, 1, (1, 2)),
}


def storages(before):
    """Bytes of all storages that were not there, each counted once."""
    new = [t for key, t in living_tensors().items() if key not in before]
    kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in new}
    return sum(kept.values())


# residuals' place, forecast, branches in calls of their own
WAYS = ("gpu", 0.0, True), ("gpu", 1.0, False), ("cpu", 1.0, False), ("gpu", 1.0, True)
PAIRS = [
    (geometry, kv_cache, *WAYS[(i + 2 * j) % 4])
    for i, kv_cache in enumerate(["gpu", "gpu_fp8", "cpu", "off"])
    for j, geometry in enumerate(GEOMETRIES)
]


@pytest.mark.parametrize("geometry, kv_cache, residual, forecast, apart", PAIRS)
def test_what_is_reported_is_what_lives(geometry, kv_cache, residual, forecast, apart, monkeypatch):
    size, branches, samples, (heads, blocks) = GEOMETRIES[geometry]
    steps = ["dense", "reuse", "dense"] if kv_cache == "off" else ["dense", [1, 3], "reuse"]
    dictate(monkeypatch, *steps)
    monkeypatch.setattr(
        "motioncache_pack.motioncache_core.cache.memory_plan.place_residuals",
        lambda nbytes, *_: ResidualPlacement(residual, nbytes, "dictated"),
    )
    network = small_wan(heads, blocks)
    batch, names = branches * samples, "abc"[:branches]
    x = torch.randn(batch, 16, *size)
    text = torch.randn(batch, TEXT_TOKENS, TEXT_DIM)
    before = living_tensors()
    run = Run(
        network, MotionCacheSettings(forecast=forecast, correction=forecast, kv_cache=kv_cache)
    )
    for sigma in (1.0, 0.875, 0.75):
        for i, name in enumerate(names if apart else [names]):
            rows = slice(samples * i, samples * (i + len(name)))
            run.call(x[rows], 1000 * sigma, text[rows], tuple(name))
    live = storages(before)
    trace = run.trace
    told = trace.residual_bytes + trace.residual_host_bytes + trace.kv_bytes + trace.kv_host_bytes
    assert live == pytest.approx(told + trace.deciding_bytes, rel=0.02)
    assert (trace.residual_bytes == 0) == (residual == "cpu")
    assert (trace.residual_host_bytes == 0) == (residual == "gpu")
    tokens = size[0] * -(-size[1] // 2) * -(-size[2] // 2)
    one = torch.empty(1, tokens, 128 * heads)
    assert trace.residual_bytes + trace.residual_host_bytes == one.nbytes * batch * (
        2 if forecast else 1
    )
    # what had been computed before the run
    need = KVBytes.of(one, blocks, heads, one.shape[2], batch)
    planned = choose_placement(kv_cache, need, "motion", None)
    on_device, on_host = need.taken(planned.tiers)
    assert trace.kv_host_bytes == on_host
    # in 8 bits a block is also read back while it is in use
    back = need.full if kv_cache == "gpu_fp8" else 0
    assert trace.kv_bytes == pytest.approx(on_device - back, rel=0.02)
    run.session.close()
    del run, x, text, one
    assert storages(before) <= 0.02 * live


# 10 blocks of 10 MiB; residuals of 4 MiB
NEED = KVBytes(10, 10 * MIB, 6 * MIB)
EVERYWHERE = Placement(("gpu",) * 10, 100 * MIB, "")
NOWHERE = Placement((), 0, "")
MIXED = Placement(("gpu_fp8", "cpu") * 5, 80 * MIB, "")


@pytest.mark.parametrize(
    "kv, device, host, wanted, reason",
    [
        (EVERYWHERE, None, None, "gpu", "4 MiB on the model's device"),
        (EVERYWHERE, 116, 0, "gpu", "4 MiB of 116 MiB free beside 100 MiB of keys and values"),
        (EVERYWHERE, 115, 60, "cpu", "4 MiB in the host's memory; 115 MiB are free on the device"),
        (EVERYWHERE, 115, 5, "gpu", "on the model's device; 115 MiB are free on the device beside"),
        (EVERYWHERE, 115, None, "gpu", "and 0 MiB in the host's memory"),
        (NOWHERE, 5, 0, "gpu", "4 MiB of 5 MiB free"),
        (NOWHERE, 4, 6, "cpu", "4 MiB in the host's memory; 4 MiB are free on the device"),
        # 30 MiB of codes and 30 to read them and the host's with; 50 on the host
        (MIXED, 72, 0, "gpu", "4 MiB of 72 MiB free beside 60 MiB"),
        (MIXED, 71, 78, "cpu", "4 MiB in the host's memory"),
        (MIXED, 71, 77, "gpu", "and 77 MiB in the host's memory"),
    ],
)
def test_where_residuals_go(kv, device, host, wanted, reason):
    free, free_host = (None if n is None else (lambda n=n: n * MIB) for n in (device, host))
    found = place_residuals(4 * MIB, NEED, kv, free, free_host)
    assert (found.place, found.nbytes) == (wanted, 4 * MIB)
    assert reason in found.reason


def test_the_host_is_asked_for_room_before_residuals_leave():
    free, asked = [50 * MIB], []

    def make_room(nbytes):
        asked.append(nbytes)
        free[0] = 120 * MIB

    for _ in range(2):
        found = place_residuals(4 * MIB, NEED, EVERYWHERE, lambda: free[0], None, make_room)
        assert found.place == "gpu"
    assert asked == [int(104 * MIB / 0.9) + 1]


def test_a_device_that_shares_the_hosts_memory_keeps_them():
    need = replace(NEED, tiers=("gpu",))
    found = place_residuals(4 * MIB, need, EVERYWHERE, lambda: MIB, lambda: 1000 * MIB)
    assert found.place == "gpu"


def test_tensors_in_the_hosts_memory_are_no_larger_than_they_have_to_be():
    x = torch.randn(2, 7, 128)
    for count in (1, 2):
        before = living_tensors()
        held, device = residual_place.new_residuals(count, x, "cpu", zeros=True)
        assert len(held) == count
        assert device == x.device
        assert not any(t.any() for t in held)
        assert storages(before) == count * x.nbytes
        del held
