"""The fault matrix: whatever breaks or changes in a run, nothing of it is kept, and the next run is
bit for bit that of a fresh process. Out of memory: `test_faults_memory.py`."""

from __future__ import annotations

import copy
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
from motioncache_pack.tests.core.faults import (
    SETTINGS,
    STEPS,
    digest,
    kinds,
    network,
    nothing_is_kept,
    sampled,
    together,
)
from motioncache_pack.tests.support.assert_close import assert_close

IN_A_FRESH_PROCESS = """
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location("conftest", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
from motioncache_pack.tests.core.faults import digest, sampled
with torch.no_grad():
    print(digest(sampled()[0]))
"""


@pytest.fixture(scope="module")
def fresh(root):
    """The latents' digest of a process that has done nothing else."""
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS, str(root / "tests" / "conftest.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    return done.stdout.strip()


@pytest.fixture
def unhurt(fresh):
    """What a test leaves is nothing, and its next run is that of a fresh process."""
    network()
    with nothing_is_kept():
        yield
        assert digest(sampled()[0]) == fresh


def test_the_run_of_these_tests_reaches_every_kind_of_evaluation(unhurt):
    _, trace = sampled()
    assert [kinds(trace).count(kind) for kind in ("dense", "partial", "reuse")] == [4, 3, 3]


CHANGES = {
    "size and batch": {"size": (2, 6, 4), "samples": 3},
    "one frame": {"size": (1, 4, 4)},
    "odd sides, settings": {
        "size": (3, 5, 3),
        "settings": replace(SETTINGS, policy="chunk", forecast=0.0),
    },
    "chunks, masks of their own": {
        "chunks": (2, 1),
        "settings": replace(SETTINGS, cfg_mask="separate"),
    },
    "bfloat16": {"dtype": torch.bfloat16},
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_run_between(unhurt, change):
    given = dict(CHANGES[change])
    if "dtype" in given:
        # the network is shared by all tests
        given["model"] = copy.deepcopy(network()).to(given["dtype"])
    first, trace = sampled(**given)
    sampled()
    second, again = sampled(**given)
    assert torch.equal(first, second)
    assert kinds(trace) == kinds(again)
    assert torch.isfinite(first).all()
    del first, second, given


def one_by_one(step):
    return [("u",), ("c",)]


# in warm-up, before reused, partial and full steps
@pytest.mark.parametrize("step", [1, 5, 6, STEPS - 1])
def test_two_batches_of_one_instead_of_one_of_two_from_a_step_on(unhurt, step):
    wanted, trace = sampled()
    got, other = sampled(grouping=lambda at: one_by_one(at) if at >= step else together(at))
    assert_close("latents", wanted, got, tolerance=1e-4)
    assert [e.kind for e in trace.evaluations] == [e.kind for e in other.evaluations]
    del wanted, got


# steps without the second condition, and what is then executed with it: D dense, D* because it
# missed something, p partial, . reused
LEFT_OUT = {
    "first": (range(3), "D . p p p . D"),
    "middle": (range(4, 7), "D D . D D* . D"),
    "last": (range(7, STEPS), "D D . D . p p"),
    "every second": (range(1, STEPS, 2), "D D* D* D* D*"),
    "while nothing is computed": ((4,), "D D . D p p p . D"),
}


@pytest.mark.parametrize("steps, apart", [(s, i % 2 == 0) for i, s in enumerate(LEFT_OUT)])
def test_a_condition_that_is_left_out_for_some_steps(unhurt, steps, apart):
    left_out, executed = LEFT_OUT[steps]

    def grouping(step):
        if step in left_out:
            return [("c",)]
        return one_by_one(step) if apart else together(step)

    latents, trace = sampled(grouping=grouping)
    marks = {"dense": "D", "partial": "p", "reuse": "."}
    both = [e.calls[0] for i, e in enumerate(trace.evaluations) if i not in left_out]
    assert " ".join(marks[c.kind] + "*" * bool(c.note) for c in both) == executed
    dense, _ = sampled(replace(SETTINGS, reuse_threshold=0.0), grouping=grouping)
    assert float((latents - dense).norm() / dense.norm()) < 0.2
    del latents, dense


def test_a_run_inside_a_step_of_another(unhurt, fresh):
    inner = []

    def nested(step):
        if step == 6:
            inner.append(digest(sampled(size=(2, 6, 4))[0]))
            inner.append(digest(sampled()[0]))

    outer = digest(sampled(before=nested)[0])
    assert inner[0] == digest(sampled(size=(2, 6, 4))[0])
    assert outer == inner[1] == fresh


def test_runs_in_parallel_threads(unhurt, fresh):
    found, start = {}, threading.Barrier(3)

    def work(name, given):
        with torch.no_grad():
            start.wait()
            found[name] = digest(sampled(**given)[0])

    # a step of one is taken in the middle of a step of another
    jobs = {"one": {}, "two": {}, "other": {"size": (2, 6, 4), "samples": 2}}
    threads = [threading.Thread(target=work, args=job) for job in jobs.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = digest(sampled(**jobs["other"])[0])
    assert found == {"one": fresh, "two": fresh, "other": alone}
