"""The preset balanced in the stand-in: whole evaluations of any model."""

import pytest


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_balanced_runs(pack, sampler):
    model, handle = pack.execute("MotionCachePatcher", pack.wan(), "balanced")
    out = pack.sample(model, steps=20, sampler=sampler)
    plain = pack.sample(pack.wan(), steps=20, sampler=sampler)
    trace = handle.latest
    print(trace.why, trace.remarks, trace.reason)
    print([e.kind for e in trace.evaluations])
    print(float((out - plain).square().mean() / plain.square().mean()))
    assert sum(e.kind == "dense" for e in trace.evaluations) == 8
