"""Copies beside the computation: on time however late they run, and in CUDA's words."""

from __future__ import annotations

import contextlib
import gc
from types import SimpleNamespace

import pytest
import torch
from motioncache_pack.motioncache_core import ForcingOptions, MotionCacheSettings
from motioncache_pack.motioncache_core.cache.kv_blocks import host_memory, offloaded, transfers
from motioncache_pack.tests.core.causal_runs import BOTH, Film, apart, poison, sampled
from motioncache_pack.tests.core.runs import Steady
from motioncache_pack.tests.support.assert_close import assert_same

CUDA = torch.device("cuda", 0)
MOTION = MotionCacheSettings(
    warmup_steps=2, uniform_updates=1, reuse_threshold=0.1, min_update_ratio=0.0, agreement=0.0
)
FILMS = {
    "block-causal": ForcingOptions(2, 4),
    "compressed": ForcingOptions(2, 3, kv_keep=1),
    "rolling": ForcingOptions(2, 4, window_frames=6),
    "windows": ForcingOptions(2, 4, window_frames=4, overlap_frames=2),
    "bidirectional": ForcingOptions(2, 4, attention="bidirectional"),
}


# branches split and join in mid-run; block-causal ones that are away start afresh
def regrouped(index):
    return [BOTH] if index % 5 < 3 else [BOTH[1:], BOTH[:1]]


GROUPINGS = {name: regrouped if name != "rolling" else apart for name in FILMS}


class LateStream:
    """Does nothing until somebody waits for it."""

    def __init__(self, device):
        self.queue, self.done, self.most = [], 0, 0

    def run(self, work, used):
        self.queue.append(work)
        self.most = max(self.most, len(self.queue) - self.done)
        return len(self.queue)

    def wait(self, mark):
        while self.done < mark:
            # in the order in which it was handed in
            self.queue[self.done]()
            self.queue[self.done] = None
            self.done += 1

    def settle(self):
        self.wait(len(self.queue))


def run(film, place):
    film = Film((8, 4, 4), steps=9, grouping=GROUPINGS[film], options=FILMS[film])
    settings = MotionCacheSettings(**{**MOTION.as_dict(), "kv_cache": place})
    latents, trace = sampled(film, settings, profile=Steady(0.06))
    assert {"partial", "reuse"} <= {c.kind for c in trace.calls()}
    return latents


WAYS = (True, "rows"), (False, "rows"), (True, "everything that was read")


@pytest.mark.parametrize(
    "film, late, written_back",
    [(film, *WAYS[i % 3]) for i, film in enumerate([*FILMS, "rolling", "compressed"])],
)
def test_the_host_is_bit_identical_to_the_device(monkeypatch, film, late, written_back):
    poison(monkeypatch)
    wanted = run(film, "gpu")
    made = []

    def stream(device):
        made.append(LateStream(device) if late else transfers.SameStream())
        return made[-1]

    monkeypatch.setattr(transfers, "side_stream", stream)
    if written_back != "rows":
        allocate = offloaded.allocate
        monkeypatch.setattr(offloaded, "allocate", lambda *form: (allocate(*form)[0], None))
    assert_same("latents", wanted, run(film, "cpu"))
    assert made
    # the next block's rows are on their way while a block's are waited for
    assert not late or max(s.most for s in made) >= 2


def test_a_prefetched_block_is_not_copied_again(monkeypatch):
    loads = []
    load = transfers.Slot.load

    def watched(self, block, length, *args):
        loads.append((id(block), length))
        load(self, block, length, *args)

    monkeypatch.setattr(transfers.Slot, "load", watched)
    form = torch.empty(0)
    blocks = [SimpleNamespace(host=(torch.randn(2, 6, 4), torch.randn(2, 6, 4))) for _ in range(4)]
    moved = transfers.Transfers()
    for _ in range(2):
        for block, behind in zip(blocks, [*blocks[1:], None], strict=True):
            moved.prefetch(block, 5, form.device)
            if behind is not None:
                moved.prefetch(behind, 5, form.device)
            k, v = moved.take(block, 5, form.device)
            assert torch.equal(k, block.host[0][:, :5])
            assert torch.equal(v, block.host[1][:, :5])
    assert loads == [(id(b), 5) for b in blocks] * 2
    # what was read ahead and then changed is read again
    moved.prefetch(blocks[0], 5, form.device)
    blocks[0].host[0].zero_()
    moved.forget(blocks[0])
    assert not moved.take(blocks[0], 5, form.device)[0].any()
    assert moved.nbytes() == 2 * 2 * 2 * 6 * 4 * 4


class Log(list):
    """What CUDA was asked for, by stand-ins that do nothing else."""

    def stream(self, name):
        return SimpleNamespace(
            name=name,
            wait_stream=lambda other: self.append(f"{name} waits for {other.name}"),
            wait_event=lambda event: self.append(f"{name} waits for {event}"),
            record_event=lambda: self.append(f"{name} records") or "event",
            synchronize=lambda: self.append(f"host waits for {name}"),
        )


@pytest.fixture
def log(monkeypatch):
    made = Log()

    @contextlib.contextmanager
    def within(stream):
        made.append(f"on {stream.name}")
        yield
        made.append("back")

    main = made.stream("main")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: made.stream("side"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "stream", within)
    return made


def test_work_on_a_cuda_stream_comes_after_what_was_there_and_keeps_its_tensors(log):
    side = transfers.side_stream(CUDA)
    used = SimpleNamespace(record_stream=lambda s: log.append(f"kept for {s.name}"))
    mark = side.run(lambda: log.append("work"), (used, used))
    side.wait(mark)
    side.settle()
    assert log == [
        "side waits for main", "on side", "work", "back", "kept for side", "kept for side",
        "side records", "main waits for event", "host waits for side",
    ]  # fmt: skip


def test_other_devices_have_no_stream_of_their_own(monkeypatch):
    assert type(transfers.side_stream(torch.device("cpu"))) is transfers.SameStream
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert type(transfers.side_stream(CUDA)) is transfers.SameStream


@pytest.fixture
def runtime(monkeypatch):
    """CUDA's part in page-locking."""
    told = SimpleNamespace(locked={}, unlocked=[], answer=0, cleared=0)

    def register(address, size, flags):
        told.locked[address] = size
        return told.answer

    def clear(device):
        told.cleared += 1

    cudart = SimpleNamespace(
        cudaHostRegister=register, cudaHostUnregister=lambda address: told.unlocked.append(address)
    )
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(host_memory, "_clear_error", clear)
    monkeypatch.setattr(host_memory, "_as_device", lambda memory, device: memory)
    return told


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 5, 6), torch.bfloat16), ((1, 1024, 8), torch.float32), ((3, 1000, 128), torch.bfloat16)],
)
def test_page_locked_memory_has_its_own_pages_and_is_unlocked_with_its_last_tensor(
    runtime, shape, dtype
):
    host, mapped = host_memory.allocate(shape, dtype, CUDA)
    ((address, size),) = runtime.locked.items()
    assert address % 4096 == size % 4096 == 0
    for pair in (host, mapped):
        for tensor in pair:
            assert tensor.shape == shape
            assert tensor.dtype == dtype
            assert tensor.is_contiguous()
            assert address <= tensor.data_ptr() <= address + size - tensor.nbytes
    assert abs(host[0].data_ptr() - host[1].data_ptr()) >= host[0].nbytes
    part = mapped[1][:1]
    del host, mapped, pair, tensor
    gc.collect()
    assert runtime.unlocked == []
    del part
    gc.collect()
    assert runtime.unlocked == [address]


def test_memory_that_cannot_be_locked_is_used_all_the_same(runtime, caplog):
    runtime.answer = 2
    host, mapped = host_memory.allocate((1, 4, 8), torch.float32, CUDA)
    assert mapped is None
    assert host[0].shape == (1, 4, 8)
    assert runtime.cleared == 1
    assert "could not be page-locked (error 2)" in caplog.text
    del host
    gc.collect()
    assert runtime.unlocked == []


def test_more_than_the_host_has_is_out_of_memory():
    with pytest.raises(torch.OutOfMemoryError, match="the host's memory"):
        host_memory.allocate((1, 1 << 24, 1 << 24), torch.float32, torch.device("cpu"))
