"""What every family must keep, on the host's own classes, its loader and its samplers."""

from __future__ import annotations

import gc

import pytest
import torch
from motioncache_pack.motioncache_core.models.registry import find_adapter
from motioncache_pack.tests.comfyui.host_families import HOST_FAMILIES
from motioncache_pack.tests.comfyui.host_weights import WithOracle, copied, parts
from motioncache_pack.tests.core.oracle import random_rows
from motioncache_pack.tests.core.runs import dictate, living_tensors
from motioncache_pack.tests.support.assert_close import assert_close, assert_same

pytestmark = pytest.mark.comfy

# more than the few with which nothing is reused
STEPS = 9
PLAIN = {
    "dense_last": False, "max_stale_steps": 0, "policy": "motion", "kv_cache": "gpu",
    "cfg_mask": "shared",
}  # fmt: skip


class Subject:
    """One kind of call on the host, and its network."""

    def __init__(self, pack, case):
        self.pack, self.host, self.case = pack, pack.host, case
        self.model = case.model(pack.host)
        network = self.model.model.diffusion_model
        latent = parts(case.latent())[0]
        self.adapter, declined = find_adapter(network)
        assert declined is None
        self.facts = self.adapter.facts(network)
        self.tokens = case.frames * self.adapter.layout(self.facts, latent).spatial

    def patched(self, **settings):
        return self.pack.patch(self.model, **{**PLAIN, **settings})

    def sample(self, model, **how):
        return self.case.sample(self.host, model, STEPS, **how)

    def traced(self, **how):
        patched, handle = self.patched()
        got = self.sample(patched, **how)
        assert not handle.latest.reason
        return got, handle.latest


def thrice(patched):
    """Has a model evaluate every step three times; what it answers from then on."""
    outs = []

    def again(executor, x, *args, **kwargs):
        outs.extend(executor(copied(x), *args, **kwargs) for _ in range(3))
        return outs[-3]

    # in front of ours
    ours = patched.wrappers["predict_noise"]
    patched.wrappers["predict_noise"] = {"thrice": [again], **ours}
    return outs


@pytest.fixture(scope="module")
def known():
    return {}


@pytest.fixture(params=HOST_FAMILIES)
def subject(request, pack, known):
    if request.param not in known:
        known[request.param] = Subject(pack, HOST_FAMILIES[request.param])
    return known[request.param]


def every(check, wanted, got):
    for i, pair in enumerate(zip(parts(wanted), parts(got), strict=True)):
        check(f"part {i}", *pair)


def kinds(trace):
    return [e.kind for e in trace.evaluations]


def test_off_is_bit_identical(subject):
    wanted = subject.sample(subject.model)
    assert float(parts(wanted)[0].std()) > 0.1
    off, _ = subject.pack.execute("MotionCachePatcher", subject.model, "off")
    every(assert_same, wanted, subject.sample(off))
    patched, handle = subject.patched(reuse_threshold=0.0)
    every(assert_same, wanted, subject.sample(patched))
    assert handle.latest.reason


def test_dense_is_bit_identical_and_all_rows_are_dense(subject, monkeypatch):
    wanted = subject.sample(subject.model)
    dictate(monkeypatch, *["dense"] * STEPS)
    got, trace = subject.traced()
    every(assert_same, wanted, got)
    assert kinds(trace) == ["dense"] * STEPS
    dictate(monkeypatch, "dense", *[range(subject.tokens)] * (STEPS - 1))
    got, trace = subject.traced()
    every(assert_close, wanted, got)
    assert {c.kind for e in trace.evaluations[1:] for c in e.calls} == {"partial"}


def test_changing_input_is_the_oracles(subject, monkeypatch):
    n = subject.tokens
    counts = (n // 3, 1, 0, n // 2, n - 1, 0, n // 5)
    rows = [range(n), *(random_rows(n, k, i) for i, k in enumerate(counts)), range(n)]
    oracle = WithOracle(subject.case, rows)
    wanted = subject.sample(oracle.put(subject.model))
    assert oracle.changed > 1e-2
    told = {0: "reuse", n: "dense"}
    dictate(monkeypatch, *(told.get(len(r), r) for r in rows))
    got, trace = subject.traced()
    every(assert_close, wanted, got)
    called = [c.kind for e in trace.evaluations for c in e.calls]
    # sound is computed when the video is reused
    reused = {"partial" if subject.adapter.answers_beside else "reuse"}
    assert set(called) == {"dense", "partial"} | reused
    # nothing is left in the model
    every(assert_same, subject.sample(subject.model), subject.sample(subject.model))


def test_a_subset_of_unchanged_input_is_dense(subject, monkeypatch):
    """Every step is evaluated thrice."""
    plan = ["dense", random_rows(subject.tokens, subject.tokens // 3, 5), "reuse"]
    dictate(monkeypatch, *plan * STEPS)
    patched, handle = subject.patched()
    outs = thrice(patched)
    subject.sample(patched, cfg=1.0)
    called = [c.kind for e in handle.latest.evaluations for c in e.calls]
    reused = "partial" if subject.adapter.answers_beside else "reuse"
    assert called == ["dense", "partial", reused] * STEPS
    for i in range(0, len(outs), 3):
        for got in outs[i + 1 : i + 3]:
            every(assert_close, outs[i], got)


def test_an_error_in_mid_run_leaves_nothing(subject, monkeypatch):
    dictate(monkeypatch, "dense", random_rows(subject.tokens, 9, 1), *["dense"] * STEPS)
    wanted = subject.sample(subject.model)
    before = living_tensors()
    patched, _ = subject.patched()
    calls = []

    def failing(executor, *args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return executor(*args, **kwargs)

    patched.add_wrapper_with_key("diffusion_model", "failing", failing)
    with pytest.raises(KeyboardInterrupt):
        subject.sample(patched)
    del patched
    gc.collect()
    left = [t.shape for key, t in living_tensors().items() if key not in before]
    assert not [s for s in left if s.numel() > 4 * subject.facts.width], left
    every(assert_same, wanted, subject.sample(subject.model))


@pytest.mark.parametrize("preset", ["motion", "paper"])
def test_presets_run_by_tokens(subject, preset):
    patched, handle = subject.pack.execute("MotionCachePatcher", subject.model, preset)
    subject.case.sample(subject.host, patched, 20)
    trace = handle.latest
    assert trace.model == subject.adapter.name and not trace.reason
    assert trace.grid is not None and trace.grid[0] == subject.case.frames
    # one prompt at a time where a preset says so
    assert len(trace.evaluations) in (20, 40)
    assert torch.isfinite(parts(subject.sample(patched))[0]).all()
