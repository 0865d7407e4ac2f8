"""Seconds of a call, on the device's clock where it has one."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

# larger than the cache of any device
FLUSH_BYTES = 1 << 30


def once(call: Callable[[], object], device: str) -> float:
    """Seconds of one call, from its first work on the device to its last; on a CPU those of its
    processor, which other programs do not add to."""
    if device != "cuda":
        begin = time.process_time()
        call()
        return time.process_time() - begin
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def repeated(
    call: Callable[[], object], device: str, repeats: int, budget: float
) -> tuple[list[float], float]:
    """Seconds of each call, ascending, and of the host until a call returns (median).

    Each run finds a cold cache: it is flushed before, which is not timed, and which keeps the
    device busy while the host launches, so that launching does not count as the device's time.

    Args:
        repeats: calls at most.
        budget: seconds after which no further call starts; ten calls are made in any case.
    """
    for _ in range(3):
        call()
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device) if device == "cuda" else None
    times: list[float] = []
    host: list[float] = []

    def launched() -> None:
        begin = time.perf_counter()
        call()
        host.append(time.perf_counter() - begin)

    started = time.perf_counter()
    while len(times) < repeats and (len(times) < 10 or time.perf_counter() - started < budget):
        if flush is not None:
            flush.zero_()
        times.append(once(launched, device))
    return sorted(times), sorted(host)[len(host) // 2]
