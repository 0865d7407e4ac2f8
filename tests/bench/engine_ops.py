"""The ops of the engine bench, which dictate to the policy and can be timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from motioncache_pack import kernels
from torch import Tensor


class BenchOps:
    """The kernels. Before the policy looks at the accumulators, a given share of the tokens, random
    ones, is put over the threshold and the others far below; and each op can be timed."""

    def __init__(self, tokens: int, device: str) -> None:
        self._order = torch.randperm(tokens, device=device)
        self._cuda = device == "cuda"
        self._spans: list[tuple[str, Any, Any]] | None = None
        self.share = 1.0

    def accumulate_due(self, accumulator: Tensor, *args: Any, **named: Any) -> Any:
        due = self._order < self.share * len(self._order)
        accumulator.copy_(due.float().mul_(2000.0).sub_(1000.0))
        return self._timed("accumulate_due", accumulator, *args, **named)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **named: self._timed(name, *args, **named)

    def timed(self, call: Callable[[], object]) -> dict[str, float]:
        """Seconds of each op in a call."""
        self._spans = []
        call()
        spans, self._spans = self._spans, None
        if self._cuda:
            torch.cuda.synchronize()
        seconds: dict[str, float] = {}
        for name, start, end in spans:
            span = start.elapsed_time(end) / 1e3 if self._cuda else end - start
            seconds[name] = seconds.get(name, 0.0) + span
        return seconds

    def _timed(self, name: str, *args: Any, **named: Any) -> Any:
        op = getattr(kernels, name)
        if self._spans is None:
            return op(*args, **named)
        start = self._now()
        result = op(*args, **named)
        self._spans.append((name, start, self._now()))
        return result

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
