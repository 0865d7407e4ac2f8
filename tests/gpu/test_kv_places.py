"""Keys and values in every place on the device: the same video, and memory that is given back."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core.cache.kv_blocks import host_memory
from motioncache_pack.tests.gpu import test_forcing, test_session
from motioncache_pack.tests.gpu.support import held
from motioncache_pack.tests.support.assert_close import assert_same

pytestmark = pytest.mark.gpu


def ordinary(device, place, dtype=torch.float32):
    return test_session.sampled(
        device, replace(test_session.SETTINGS, kv_cache=place), dtype=dtype, batch=2
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_hosts_memory_is_bit_identical(dtype, device, fast):
    wanted, trace = ordinary(device, "gpu", dtype)
    assert "partial" in {c.kind for c in trace.calls()}
    # copies race with the computation: more than one chance to lose
    for _ in range(5):
        got, other = ordinary(device, "cpu", dtype)
        assert_same("latents", wanted, got)
    assert other.kv_host_bytes == trace.kv_bytes


@pytest.mark.parametrize("name", [n for n in test_forcing.RUNS if n.startswith("block-causal")])
def test_the_hosts_memory_is_bit_identical_in_chunks(name, device, fast, monkeypatch):
    options, settings = test_forcing.RUNS[name]
    wanted, _ = test_forcing.sampled(device, name)
    monkeypatch.setitem(test_forcing.RUNS, name, (options, replace(settings, kv_cache="cpu")))
    for _ in range(3):
        got, trace = test_forcing.sampled(device, name)
        assert_same("latents", wanted, got)
    assert trace.kv_host_bytes > 0


def test_everything_written_back_is_the_same(device, fast, monkeypatch):
    wanted, _ = ordinary(device, "gpu")
    monkeypatch.setattr(host_memory, "_as_device", lambda memory, device: None)
    got, _ = ordinary(device, "cpu")
    assert_same("latents", wanted, got)


def test_8_bits_stay_close_and_take_half(device, fast):
    wanted, trace = ordinary(device, "gpu", torch.bfloat16)
    got, other = ordinary(device, "gpu_fp8", torch.bfloat16)
    difference = (got.float() - wanted.float()).norm() / wanted.float().norm()
    assert 0 < float(difference) < 0.02
    # heads of 128 channels with a scale of four bytes
    assert other.kv_bytes * 256 == trace.kv_bytes * (128 + 4)


def test_the_device_writes_to_the_hosts_memory(device):
    if device == "cpu":
        pytest.skip("the host's memory is the CPU's own")
    there = torch.device(device, torch.cuda.current_device())
    host, mapped = host_memory.allocate((2, 300, 256), torch.bfloat16, there)
    assert mapped is not None
    assert all(t.is_pinned() for t in host)
    fresh = torch.randn(2, 2, 17, 256, device=device).to(torch.bfloat16)
    for t in host:
        t.zero_()
    rows = torch.randperm(300, device=device)[:17].to(torch.int32)[None]
    kernels.scatter_kv(*fresh, rows, *mapped)
    torch.cuda.synchronize()
    for written, wanted in zip(host, fresh.cpu(), strict=True):
        assert torch.equal(written[:, rows[0].cpu().long()], wanted)
        assert int(written.any(-1).sum()) == 2 * 17


@pytest.mark.parametrize("place", ["gpu_fp8", "cpu"])
def test_nothing_is_kept_after_a_run(place, device, fast):
    for _ in range(2):
        ordinary(device, place)
    gc.collect()
    before = held(device)
    for _ in range(5):
        ordinary(device, place)
    assert held(device) == before
