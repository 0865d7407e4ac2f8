"""Where slopes of keys and values go, by setting and by free memory."""

import pytest
from motioncache_pack.motioncache_core.cache.kv_placement import (
    KVBytes,
    choose_causal_placement,
    choose_placement,
)

MIB = 2**20
# 10 blocks of 10 MiB, of 6 MiB in 8 bits; slopes take as much again
NEED = KVBytes(10, 10 * MIB, 6 * MIB, forecast=True)


def free(mib):
    return None if mib is None else lambda: mib * MIB


@pytest.mark.parametrize(
    "kv_cache, device, where, forecast_, kept, reason",
    [
        ("auto", None, "gpu", True, 200, "200 MiB on the model's device, half of it for their"),
        ("auto", 269, "gpu", True, 200, "200 MiB of 269 MiB free, half of it for their forecast"),
        ("auto", 268, "gpu_fp8", True, 120, "120 MiB in 8 bits of 268 MiB free, half of it"),
        ("auto", 194, "gpu_fp8", True, 120, "120 MiB in 8 bits of 194 MiB free, half of it"),
        ("auto", 193, "gpu", False, 100, "no forecast of them, which takes 215 MiB or 155 MiB"),
        ("auto", 100, "gpu_fp8", False, 60, "no forecast of them, which takes 215 MiB or 155 MiB"),
        ("auto", 44, "cpu", False, 100, "no forecast of them, which takes 215 MiB or 155 MiB"),
        ("gpu", 1, "gpu", True, 200, "200 MiB on the model's device, half of it"),
        ("gpu_fp8", 1, "gpu_fp8", True, 120, "in 8 bits, half of it for their forecast"),
        ("cpu", 500, "cpu", False, 100, "they are not forecast, as they have to be on the model's"),
    ],
)
@pytest.mark.parametrize("choose", [choose_placement, choose_causal_placement])
def test_where_slopes_go(choose, kv_cache, device, where, forecast_, kept, reason):
    told = (NEED, "motion") if choose is choose_placement else (NEED,)
    placed = choose(kv_cache, *told, free(device), free(1000))
    assert placed.tiers == (where,) * 10
    assert (placed.forecast, placed.nbytes) == (forecast_, kept * MIB)
    assert reason in placed.reason


def test_where_nothing_fits_block_causal_attention_keeps_no_slopes():
    placed = choose_causal_placement("auto", NEED, free(1), free(1))
    assert (placed.store, placed.forecast, placed.nbytes) == (True, False, 60 * MIB)
