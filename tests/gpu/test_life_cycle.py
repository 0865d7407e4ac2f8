"""Memory stays flat, nothing outlives a run, and no kernel is compiled twice."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core.demo.sampler import cached_sample
from motioncache_pack.tests.core.runs import Run
from motioncache_pack.tests.gpu.support import compiled_kernels, held, results
from motioncache_pack.tests.gpu.test_session import OPTIONS, SETTINGS, inputs, network
from motioncache_pack.tests.kernels.cases import CASES, Sizes

pytestmark = pytest.mark.gpu

FORECAST = replace(SETTINGS, forecast=0.75)


def test_memory_is_flat_over_twenty_runs(device, fast):
    net, given = network(device), inputs(device)
    peaks = []

    def run():
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        cached_sample(net, *given, OPTIONS, FORECAST, kernels)
        if device == "cuda":
            peaks.append(torch.cuda.max_memory_allocated())

    # libraries take their workspaces in the first runs
    for _ in range(2):
        run()
    before = held(device)
    peaks.clear()
    for _ in range(20 if device == "cuda" else 3):
        run()
    assert held(device) == before
    assert not peaks or max(peaks) == min(peaks)


def test_nothing_is_kept_after_close(device, fast):
    net, (context, _, x) = network(device), inputs(device)

    def run():
        made = Run(net, replace(FORECAST, warmup_steps=1, uniform_updates=0))
        for level in (900.0, 800.0, 700.0, 600.0):
            made.call(x, torch.full((1,), level, device=device), context)
        used = held(device)
        made.session.close()
        return made, used

    del_first, _ = run()
    del del_first
    gc.collect()
    before = held(device)
    kept, used = run()
    assert used > before
    assert held(device) == before
    assert len(kept.trace.evaluations) == 4


# the engine rounds counts up to a multiple of 128; smaller clips and others have any
COUNTS = (128, 256, 384, 1280, 1, 7, 129, 1000)


@pytest.mark.parametrize(
    "label", [n for n in CASES if n.startswith(("gather", "scatter", "select", "compact"))]
)
def test_no_kernel_is_compiled_for_another_count(label, device, fast):
    if fast != "triton" or device == "cpu":
        pytest.skip("only a device compiles")
    sizes = Sizes(device, torch.bfloat16, 2, 21, 80, 256, COUNTS[0])

    def call(count):
        case = CASES[label](replace(sizes, count=count))
        results(fast, case, case.make())

    call(COUNTS[0])
    first = compiled_kernels()
    assert first > 0
    for count in COUNTS[1:]:
        call(count)
    assert compiled_kernels() == first


def test_a_second_run_compiles_nothing(device, fast):
    if fast != "triton" or device == "cpu":
        pytest.skip("only a device compiles")
    net, given = network(device), inputs(device)
    counts = []
    for _ in range(3):
        _, trace = cached_sample(net, *given, OPTIONS, FORECAST, kernels)
        counts.append(compiled_kernels())
    assert len({c.computed for c in trace.calls()}) > 2
    assert counts[0] == counts[2] > 0
